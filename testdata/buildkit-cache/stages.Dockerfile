FROM base AS build
RUN make
FROM build AS test
RUN test
FROM base
COPY --from=build /ran /out/ran
COPY --from=test /ran /etc/passwd /out2/
COPY --from=build /etc /etc2
COPY --link --from=build /ran /linked
RUN end
