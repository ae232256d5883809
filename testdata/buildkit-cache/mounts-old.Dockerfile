FROM base AS other
RUN other
FROM base
RUN --mount=type=cache,target=/cache cached
RUN --mount=type=cache,target=/cache,id=x,sharing=locked cached-id
RUN --mount=type=secret,id=token,required=false secret
RUN --mount=type=secret,id=token,target=/run/t,mode=0440,uid=5 secret-target
RUN --mount=type=tmpfs,target=/t tmp
RUN --mount=type=tmpfs,target=/t,size=1m tmp-size
RUN --mount=type=ssh ssh
RUN --mount=from=other,source=/ran,target=/m from
RUN --mount=from=other,target=/m2 from-all
RUN --mount=from=other,target=/m3,rw from-rw
RUN --mount=target=/ctx context
RUN --mount=source=d,target=/ctx context-dir
