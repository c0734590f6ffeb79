# PostgreSQL with saga:
#
#   docker build --build-arg PG_MAJOR=17 --tag postgres-saga .
#   docker run --env POSTGRES_PASSWORD=... --publish 5432:5432 postgres-saga
#
# New clusters preload saga.  One that was made before, with another image, needs
# shared_preload_libraries = 'saga' in its postgresql.conf.

ARG PG_MAJOR=17

FROM postgres:${PG_MAJOR} AS build
RUN apt-get update \
	&& apt-get install -y --no-install-recommends gcc libc6-dev make "postgresql-server-dev-$PG_MAJOR" \
	&& rm -rf /var/lib/apt/lists/*
COPY Makefile saga.control saga--*.sql saga_cluster.sql /saga/
COPY src /saga/src
RUN make -C /saga -j"$(nproc)" with_llvm=no DESTDIR=/installed install

FROM postgres:${PG_MAJOR}
COPY --from=build /installed/ /
COPY LICENSE /usr/share/doc/saga/
RUN echo "shared_preload_libraries = 'saga'" >>/usr/share/postgresql/postgresql.conf.sample
