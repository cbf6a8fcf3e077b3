"""`uvicorn app.main:app`, `gunicorn app.main:app`: the service by its environment, and no logic."""

from app.bootstrap import create_app

app = create_app()
