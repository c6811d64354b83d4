package registryserver_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver"
	"github.com/chartroom-dev/chartroom/registryserver/access/oidc/issuertest"
)

// startFederated serves a registry whose access file, written by hand, has a policy for an issuer.
func startFederated(t *testing.T, i *issuertest.Issuer) *running {
	t.Helper()
	ca, err := json.Marshal(i.CA())
	if err != nil {
		t.Fatal(err)
	}
	return start(t, func(c *registryserver.Config) {
		c.Access.File = c.Storage.Dir + ".json"
		c.AllowEgressCIDRs = []string{"127.0.0.0/8"}
		c.ExternalURL = "https://charts.example.com/"
		document := fmt.Sprintf(`{
		  "version": 2,
		  "policies": [{"name": "ci", "statements": [
		    {"iss": %q, "ca": %s, "scopes": ["read_packages", "write_packages"], "claims": {"ref": {"matches": ["refs/heads/main", "refs/tags/*"]}}, "charts": ["web"]}
		  ]}]
		}`, i.URL, ca)
		if err := os.WriteFile(c.Access.File, []byte(document), 0o600); err != nil {
			t.Fatal(err)
		}
	})
}

func TestOIDCEndToEnd(t *testing.T) {
	i := issuertest.New(t)
	r := startFederated(t, i)
	const audience = "https://charts.example.com/acme/charts"
	claims := func(audience, ref string) map[string]any {
		return i.Claims(audience, time.Now(), map[string]any{"sub": "repo:acme/web", "ref": ref})
	}
	good := i.Token(claims(audience, "refs/heads/main"))
	r.token = good
	location := r.pushBlob("by Basic")
	if answer := r.request("GET", location, nil, map[string]string{"Authorization": "Bearer " + good}); answer.StatusCode != http.StatusOK {
		t.Errorf("by Bearer: %d", answer.StatusCode)
	}
	if answer := r.request("GET", r.public+"/v2/acme/charts/api/tags/list", nil, nil); answer.StatusCode != http.StatusForbidden {
		t.Errorf("another chart: %d", answer.StatusCode)
	}
	if answer := r.request("DELETE", location, nil, nil); answer.StatusCode != http.StatusForbidden {
		t.Errorf("a delete: %d", answer.StatusCode)
	}
	for name, token := range map[string]string{
		"another branch": i.Token(claims(audience, "refs/heads/evil")),
		// The audience is what the configuration says, whatever the client calls the server.
		"the name in the Host header": i.Token(claims(r.public+"/acme/charts", "refs/heads/main")),
		"forged":                      issuertest.Sign(`{"alg":"ES256","kid":"first"}`, "{}", issuertest.Key("attacker")),
	} {
		answer := r.request("GET", location, nil, map[string]string{"Authorization": "Bearer " + token})
		body := text(t, answer)
		if answer.StatusCode != http.StatusUnauthorized || !strings.Contains(body, "acme/charts") || strings.Contains(body, "refs/") || strings.Contains(body, "ci[") {
			t.Errorf("%s: %d %s", name, answer.StatusCode, body)
		}
	}
	eventually(t, "the log and the record say who, by which policy, and why not", func() bool {
		return strings.Contains(r.log.String(), `identity=oidc:`+i.URL+`#repo:acme/web policies=ci[0]`) &&
			strings.Contains(r.audit.String(), `"identity":"oidc:`+i.URL+`#repo:acme/web","policies":["ci[0]"]`) &&
			strings.Contains(r.audit.String(), `claims.ref: \"refs/heads/evil\" matches none of \"refs/heads/main\", \"refs/tags/*\"`)
	})
	if log := r.log.String() + r.audit.String(); strings.Contains(log, good) || strings.Contains(log, good[len(good)-40:]) {
		t.Error("the log has a token")
	}
}

func TestExchangeEndToEnd(t *testing.T) {
	i := issuertest.New(t)
	r := startFederated(t, i)
	r.token = i.Token(i.Claims("https://charts.example.com/acme/charts", time.Now(), map[string]any{"ref": "refs/tags/v1"}))
	form := url.Values{
		"grant_type":    {"urn:ietf:params:oauth:grant-type:token-exchange"},
		"subject_token": {r.token}, "subject_token_type": {"urn:ietf:params:oauth:token-type:jwt"},
	}
	contentType := map[string]string{"Content-Type": "application/x-www-form-urlencoded"}
	answer := r.request("POST", r.public+"/-/oidc/exchange", strings.NewReader(form.Encode()), contentType)
	var session struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(answer.Body).Decode(&session); err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%d, %v", answer.StatusCode, err)
	}
	// An upload that the one began, the other ends.
	upload := r.request("POST", r.public+"/v2/acme/charts/web/blobs/uploads/", nil, nil).Header.Get("Location")
	if answer := r.request("GET", r.public+upload, nil, map[string]string{"Authorization": "Bearer " + session.AccessToken}); answer.StatusCode != http.StatusNoContent {
		t.Errorf("an upload goes on: %d", answer.StatusCode)
	}
	r.token = session.AccessToken
	r.pushBlob("by session")
	eventually(t, "the log names the session", func() bool {
		return strings.Contains(r.log.String(), "session="+session.AccessToken[:20]) && strings.Contains(r.log.String(), "path=/-/oidc/exchange status=200")
	})
	if strings.Contains(r.log.String(), session.AccessToken[20:]) {
		t.Error("the log has the session token")
	}
	refused := 0
	for range 300 {
		if answer := r.request("POST", r.public+"/-/oidc/exchange", nil, contentType); answer.StatusCode == http.StatusTooManyRequests {
			refused++
		}
	}
	if refused == 0 {
		t.Error("the exchange is not bounded")
	}
}
