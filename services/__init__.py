"""The services; each imports libs and its own rooms, never another service. `python -m services.<name>` runs one."""

import os

# A service that starts a process of its own (a snapshot, a replay) must not have gRPC meddle with the fork: its handlers
# ran in the child, between fork and exec, and crashed about one in fifty. gRPC reads this when it is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
