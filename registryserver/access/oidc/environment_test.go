package oidc_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/access/oidc"
	"github.com/chartroom-dev/chartroom/registryserver/access/oidc/issuertest"
)

// It is in the first file of the folder because net/http looks at the environment once in a process.
func TestProxiesOfTheEnvironmentAreNotUsed(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a proxy was asked") }))
	defer proxy.Close()
	t.Setenv("HTTPS_PROXY", proxy.URL)
	t.Setenv("NO_PROXY", "")
	k, source := oidc.NewKeys(oidc.Options{AllowedNetworks: issuertest.Loopback}), oidc.Source{Issuer: "https://issuer.invalid"}
	defer k.Close()
	k.Use([]oidc.Source{source})
	i := issuertest.New(t)
	refused(t, "no such issuer", prove(t, k, source, i.Token(i.Claims(audience, now(), map[string]any{"iss": source.Issuer}))), "could not be asked")
}
