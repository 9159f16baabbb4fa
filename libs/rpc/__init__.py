"""gRPC as every service here speaks it: access rules, request ids, typed errors, health, reflection, drain."""
