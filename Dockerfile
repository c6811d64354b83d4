# The same image as hack/image/build makes, for those who have Docker:
#
#   docker build --build-arg VERSION="$(hack/version)" -t localhost/chartroom:"$(hack/version)" .
FROM golang:1.26 AS build
ARG VERSION=v0.1.0-dev
WORKDIR /source
COPY go.mod go.sum ./
RUN go mod download
COPY api api
COPY cmd cmd
COPY controllers controllers
COPY registryserver registryserver
RUN mkdir /programs && for program in chartroom chartroom-operator; do \
      CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$VERSION" \
        -o "/programs/$program" "./cmd/$program" || exit 1; \
    done && chmod 0555 /programs/*

FROM scratch
ARG VERSION=v0.1.0-dev
LABEL org.opencontainers.image.title=chartroom \
      org.opencontainers.image.version=$VERSION \
      org.opencontainers.image.source=https://github.com/chartroom-dev/chartroom \
      org.opencontainers.image.licenses=Apache-2.0
COPY --from=build /programs/ /
USER 65532:65532
WORKDIR /
ENTRYPOINT ["/chartroom"]
