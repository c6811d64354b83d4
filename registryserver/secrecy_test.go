package registryserver_test

import (
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver"
	"github.com/chartroom-dev/chartroom/registryserver/access/oidc/issuertest"
)

// Wherever a client puts a secret, whole or damaged, and whatever it asks for, neither the log nor the record has it.
func TestNoSecretIsWrittenDown(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *registryserver.Config) { c.Audit.Reads = true })
	i := issuertest.New(t)
	secrets := []string{
		r.token,
		i.Token(i.Claims("https://charts.example.com/acme/charts", time.Now(), map[string]any{"ref": "main"})),
		"correct-horse-battery-staple-1",
	}
	form := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "subject_token": {r.token}, "subject_token_type": {"urn:ietf:params:oauth:token-type:access_token"}}
	exchanged := r.request("POST", r.public+"/-/oidc/exchange", strings.NewReader(form.Encode()), map[string]string{"Content-Type": "application/x-www-form-urlencoded"})
	if _, session, found := strings.Cut(text(t, exchanged), `"access_token":"`); found {
		session, _, _ = strings.Cut(session, `"`)
		secrets = append(secrets, session)
	}
	if len(secrets) != 4 {
		t.Fatal("there is no session token")
	}
	random := rand.New(rand.NewPCG(4, 4))
	pick := func(of ...string) string { return of[random.IntN(len(of))] }
	damages := []func(string) string{
		func(s string) string { return s },
		func(s string) string { return s[:len(s)-1] },
		func(s string) string { return s + "x" },
		func(s string) string { return "x" + s },
		func(s string) string { return " " + s },
		strings.ToUpper,
		func(s string) string { return strings.Replace(s, "_", "-", 1) },
		func(s string) string { return s + "." + s },
	}
	basic := func(user, password string) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	}
	const packages = "/api/v2/packages/organizations/acme/registries/charts/packages"
	for n := range 400 {
		secret := damages[random.IntN(len(damages))](pick(secrets...))
		path := pick("/v2/", "/v2/_catalog", "/v2/acme/charts/web/tags/list", "/v2/acme/charts/web/manifests/1.0.0", "/v2/acme/charts/web/blobs/uploads/", "/v2/other/charts/web/manifests/1", "/-/oidc/exchange", "/nothing",
			packages, packages+"/web:1.0.0/copy", "/acme/charts/helm/index.yaml", "/acme/charts/helm/charts/web/web-1.0.0.tgz", "/acme/charts/helm/api/charts")
		body, header := "", map[string]string{"X-Request-Id": fmt.Sprint("secrecy-", n)}
		switch random.IntN(9) {
		case 0:
			header["Authorization"] = "Bearer " + secret
		case 1:
			header["Authorization"] = basic("chartroom", secret)
		case 2:
			header["Authorization"] = basic(secret, "")
		case 3:
			header["Authorization"] = pick("", "Token ", "Basic ", "Negotiate ") + secret
		case 4:
			path += "?" + pick("token", "access_token", "digest", "n", "last") + "=" + url.QueryEscape(secret)
		case 5:
			header[pick("Cookie", "X-Api-Key", "X-Forwarded-For", "User-Agent", "Referer", "Content-Type")] = secret
		case 6:
			form.Set(pick("subject_token", "grant_type", "subject_token_type", "scope", "audience", "other"), secret)
			body, path = form.Encode(), "/-/oidc/exchange"
			header["Content-Type"] = "application/x-www-form-urlencoded"
		case 7:
			body = secret
		case 8: // Where no secret belongs, and only tokens can be told from names.
			secret = pick(secrets[0], secrets[1], secrets[3])
			path = pick("/v2/acme/charts/web/manifests/"+secret, "/v2/acme/charts/web/blobs/"+secret, "/v2/acme/charts/"+secret+"/tags/list", "/"+secret+"/x",
				packages+"/"+secret+":1.0.0", "/acme/charts/helm/charts/"+secret+"/"+secret+"-1.0.0.tgz")
		}
		answer := r.request(pick(http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete), r.public+path, strings.NewReader(body), header)
		if said := text(t, answer); strings.Contains(said, secret) && !strings.HasPrefix(path, "/-/") {
			t.Errorf("%s tells the secret to who sent it: %s", path, said)
		}
	}
	r.request("GET", r.public+"/v2/", nil, map[string]string{"X-Request-Id": r.token})
	r.request("GET", r.public+"/v2/", nil, map[string]string{"X-Request-Id": "secrecy-last"})
	r.recorded("secrecy-last")
	eventually(t, "the log has the last request", func() bool { return strings.Contains(r.log.String(), "secrecy-last") })
	written := r.log.String() + r.audit.String()
	if lines := strings.Count(written, "secrecy-"); lines < 800 {
		t.Errorf("of 400 requests the log and the record have only %d lines", lines)
	}
	written = strings.ToLower(written)
	for _, secret := range secrets {
		// Tokens begin with their id, which may be told.
		for at := min(24, len(secret)-12); at+12 <= len(secret); at += 12 {
			if _, line, found := strings.Cut(written, strings.ToLower(secret[at:at+12])); found {
				line, _, _ = strings.Cut(line, "\n")
				t.Errorf("%.12s… is written down, before %q", secret, line)
			}
		}
	}
}
