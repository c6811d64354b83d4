package access_test

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/access"
)

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func request(headers ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/v2/?token=query&access_token=query", nil)
	for _, h := range headers {
		r.Header.Add("Authorization", h)
	}
	return r
}

func TestFromRequest(t *testing.T) {
	for name, c := range map[string]struct {
		headers []string
		secret  string
		refused bool
	}{
		"none":                    {nil, "", false},
		"basic":                   {[]string{basic("chartroom", "s")}, "s", false},
		"basic, any user":         {[]string{basic("", "s")}, "s", false},
		"basic, colons":           {[]string{basic("u", "s:t")}, "s:t", false},
		"basic, any case":         {[]string{"bAsIc " + basic("u", "s")[6:]}, "s", false},
		"bearer":                  {[]string{"Bearer s"}, "s", false},
		"bearer, any case":        {[]string{"BEARER s"}, "s", false},
		"bearer, more space":      {[]string{"Bearer  s"}, "s", false},
		"basic, no password":      {[]string{basic("s", "")}, "", true},
		"basic, no colon":         {[]string{"Basic " + base64.StdEncoding.EncodeToString([]byte("s"))}, "", true},
		"basic, not base64":       {[]string{"Basic %%%"}, "", true},
		"basic, nothing":          {[]string{"Basic"}, "", true},
		"bearer, nothing":         {[]string{"Bearer"}, "", true},
		"bearer, blank":           {[]string{"Bearer   "}, "", true},
		"bearer, two":             {[]string{"Bearer a b"}, "", true},
		"joined by a comma":       {[]string{"Bearer a,Bearer b"}, "", true},
		"empty":                   {[]string{""}, "", true},
		"no scheme":               {[]string{"s"}, "", true},
		"another scheme":          {[]string{"Digest s"}, "", true},
		"a scheme's prefix":       {[]string{"Basicx s"}, "", true},
		"too long":                {[]string{"Bearer " + strings.Repeat("a", 16<<10)}, "", true},
		"basic, then bearer":      {[]string{basic("u", "s"), "Bearer s"}, "", true},
		"bearer, then basic":      {[]string{"Bearer s", basic("u", "s")}, "", true},
		"the same one, two times": {[]string{"Bearer s", "Bearer s"}, "", true},
	} {
		got, err := access.FromRequest(request(c.headers...))
		if (err != nil) != c.refused || got.Secret != c.secret || got.Present != (c.secret != "") {
			t.Errorf("%s: %q, present %v, %v", name, got.Secret, got.Present, err)
		}
	}
}

func FuzzFromRequest(f *testing.F) {
	f.Add(basic("chartroom", zeroToken))
	f.Add("Bearer " + zeroToken)
	f.Add("Basic Og==")
	f.Fuzz(func(t *testing.T, header string) {
		got, err := access.FromRequest(request(header))
		if err != nil && (got.Present || got.Secret != "") {
			t.Errorf("%q: refused, and yet there is %q", header, got.Secret)
		}
		if err == nil && (!got.Present || got.Secret == "") {
			t.Errorf("%q: taken, and yet nothing came of it", header)
		}
		if err == nil && !strings.HasSuffix(strings.TrimRight(header, " "), got.Secret) {
			_, encoded, _ := strings.Cut(header, " ")
			if decoded, err := base64.StdEncoding.DecodeString(encoded); err != nil || !strings.HasSuffix(string(decoded), ":"+got.Secret) {
				t.Errorf("%q: the secret is %q", header, got.Secret)
			}
		}
		if err != nil && len(header) > 20 && strings.Contains(err.Error(), header[8:]) {
			t.Errorf("the error quotes the header: %v", err)
		}
	})
}
