# One image, two commands: `api` and `worker`.
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src
# An older pip finds no set of OpenTelemetry's pre-releases that fit each other (seen with 23.2.1).
RUN python -m venv /opt/tracebaton \
    && /opt/tracebaton/bin/pip install --no-cache-dir --upgrade 'pip>=25.1' \
    && /opt/tracebaton/bin/pip install --no-cache-dir '.[fast,prometheus]'

FROM python:3.13-slim
RUN useradd --system --uid 10001 --create-home tracebaton && install -d -o tracebaton /data
COPY --from=build /opt/tracebaton /opt/tracebaton
ENV PATH=/opt/tracebaton/bin:$PATH PYTHONUNBUFFERED=1 TRACEBATON_DATA=/data
USER tracebaton
WORKDIR /home/tracebaton
VOLUME /data
ENTRYPOINT ["tracebaton"]
CMD ["api", "--host", "0.0.0.0", "--port", "8000"]
