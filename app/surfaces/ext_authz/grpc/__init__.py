"""`envoy.service.auth.v3.Authorization` on a port of its own. Needs the extra `grpc`; nothing else imports this."""
