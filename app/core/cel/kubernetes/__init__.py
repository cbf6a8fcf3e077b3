"""Kubernetes' libraries for CEL: its functions and types, with the results and errors that they have there.

Written from "Common Expression Language in Kubernetes" and from what the API server's own libraries do. `signatures`
says what the checker knows of them, `docs/cel.md` where they differ on purpose.
"""
