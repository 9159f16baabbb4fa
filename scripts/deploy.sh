#!/usr/bin/env bash
# Bring an image to a cluster: migrate, then the services, then wait; what does not come up is taken back.
# Usage: scripts/deploy.sh staging|production IMAGE. KUBE_CONFIG: a kubeconfig (else kubectl's own).
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:?staging or production}
image=${2:?the image, with its tag}
overlay="deploy/kubernetes/overlays/$target"
[ -d "$overlay" ] || { echo "there is no $overlay" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -n "${KUBE_CONFIG:-}" ]; then
  (umask 077 && printf '%s' "$KUBE_CONFIG" > "$work/kubeconfig")
  export KUBECONFIG="$work/kubeconfig"
fi
namespace=trade-engine
[ "$target" = staging ] && namespace=trade-engine-staging
cp -r deploy/kubernetes "$work/kubernetes"
cat >> "$work/kubernetes/overlays/$target/kustomization.yaml" <<KUSTOMIZATION
images:
  - name: trade-engine
    newName: ${image%:*}
    newTag: "${image##*:}"
KUSTOMIZATION
kubectl kustomize "$work/kubernetes/overlays/$target" > "$work/all.yaml"
kubectl -n "$namespace" delete job migrate --ignore-not-found
kubectl apply -f "$work/all.yaml" --selector app=migrate
kubectl -n "$namespace" wait --for=condition=complete --timeout=300s job/migrate
kubectl apply -f "$work/all.yaml"
for part in deployment/wallet statefulset/matcher deployment/settlement deployment/order-gateway deployment/market-data deployment/edge; do
  if ! kubectl -n "$namespace" rollout status "$part" --timeout=300s; then
    echo "$part does not come up: taking it back" >&2
    kubectl -n "$namespace" rollout undo "$part"
    exit 1
  fi
done
