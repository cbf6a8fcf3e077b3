"""A gateway between clients and servers of the Model Context Protocol: every tool call is asked for at the firewall.

Speaks to the firewall through `app.client` alone, as any other program does, and imports nothing of the service but
what is pure. Needs the extra `mcp`.
"""
