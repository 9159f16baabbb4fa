#!/usr/bin/env bash
# Build the one image of all services with whatever builds images here.
set -euo pipefail
cd "$(dirname "$0")/.."
image=${1:-trade-engine}
for builder in docker podman; do
  if command -v "$builder" > /dev/null && "$builder" info > /dev/null 2>&1; then
    exec "$builder" build -f deploy/Dockerfile -t "$image" .
  fi
done
if command -v buildah > /dev/null; then
  exec buildah --storage-driver vfs bud --isolation chroot -f deploy/Dockerfile -t "$image" .
fi
echo "neither docker, podman nor buildah can build here" >&2
exit 1
