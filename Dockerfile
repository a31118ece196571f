# One image for every part: `docker run IMAGE serve`, `… work`, `… verify`.
#
# The embedded engines are not in it: one is under the GPL, and data in a container
# belongs into a Redis or Valkey and a MongoDB of its own. To pin the base image:
# --build-arg PYTHON_IMAGE=python:3.13-slim-trixie@sha256:…
ARG PYTHON_IMAGE=python:3.13-slim-trixie

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements/build.lock requirements/image.lock requirements/
RUN pip install --require-hashes --no-deps -r requirements/build.lock \
    && python -m venv --without-pip /opt/evp \
    && pip --python /opt/evp/bin/python install --only-binary :all: \
        --require-hashes --no-deps -r requirements/image.lock
COPY pyproject.toml README.md LICENSE ./
COPY evp evp
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheel . \
    && pip --python /opt/evp/bin/python install --no-deps --no-index /wheel/*.whl

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="evp" \
    org.opencontainers.image.description="Accepts events durably, stores each exactly once" \
    org.opencontainers.image.licenses="MIT"
RUN groupadd --gid 10001 evp \
    && useradd --uid 10001 --gid 10001 --no-log-init --home-dir /data evp \
    && install --directory --owner evp --group evp --mode 0700 /data
COPY --from=build /opt/evp /opt/evp
# In production nothing is made up: addresses and secrets must be given. EVP_PORT stays
# unset, so that a platform's PORT is heard.
ENV PATH=/opt/evp/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    EVP_ENV=production \
    EVP_HOST=0.0.0.0 \
    EVP_DATA_DIR=/data
USER 10001:10001
WORKDIR /data
EXPOSE 3001
STOPSIGNAL SIGTERM
# For servers. A worker is asked on its port for metrics: deploy/compose.yaml has that.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["evp", "health"]
ENTRYPOINT ["evp"]
CMD ["serve"]
