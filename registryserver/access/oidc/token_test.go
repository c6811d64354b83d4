package oidc_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/access/oidc"
	"github.com/chartroom-dev/chartroom/registryserver/access/oidc/issuertest"
)

const (
	audience   = "https://charts.example.com/acme/charts"
	goodHeader = `{"alg":"ES256","typ":"JWT","kid":"first"}`
)

// now is a whole second, as the times in tokens are.
func now() time.Time { return time.Now().Truncate(time.Second) }

// prover knows the keys of an issuer.
func prover(t *testing.T, i *issuertest.Issuer) (*oidc.Keys, oidc.Source) {
	t.Helper()
	k, source := oidc.NewKeys(oidc.Options{AllowedNetworks: issuertest.Loopback}), oidc.Source{Issuer: i.URL, CA: i.CA()}
	t.Cleanup(k.Close)
	k.Use([]oidc.Source{source})
	return k, source
}

// prove is what the server does with a token.
func prove(t *testing.T, k *oidc.Keys, source oidc.Source, compact string) error {
	t.Helper()
	token, err := oidc.Parse(compact, time.Now())
	if err != nil {
		return err
	}
	return k.Verify(t.Context(), source, token)
}

func refused(t *testing.T, name string, err error, why string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("%s: %v, want something with %q", name, err, why)
	}
}

func TestGoodTokens(t *testing.T) {
	i := issuertest.New(t)
	rsa := issuertest.JWK("rsa", issuertest.RSAKey())
	certified := issuertest.JWK("certified", issuertest.Key("certified"))
	certified["x5c"], certified["x5t"] = []string{"not a certificate"}, "x"
	i.Publish(issuertest.JWK("first", issuertest.Key("first")), rsa, certified, map[string]any{"kty": "unheard of", "kid": "new"})
	k, source := prover(t, i)
	claims := i.Claims(audience, now(), nil)
	payload := string(mustJSON(t, claims))
	for name, token := range map[string]string{
		"ES256":                      i.Token(claims),
		"RS256":                      issuertest.Sign(`{"alg":"RS256","typ":"JWT","kid":"rsa"}`, payload, issuertest.RSAKey()),
		"no typ":                     issuertest.Sign(`{"alg":"ES256","kid":"first"}`, payload, issuertest.Key("first")),
		"typ in small letters":       issuertest.Sign(`{"alg":"ES256","kid":"first","typ":"jwt"}`, payload, issuertest.Key("first")),
		"a thumbprint":               issuertest.Sign(`{"alg":"ES256","kid":"first","x5t":"abc"}`, payload, issuertest.Key("first")),
		"a certificate with the key": issuertest.Sign(`{"alg":"ES256","kid":"certified"}`, payload, issuertest.Key("certified")),
		"a list of one audience":     i.Token(i.Claims(audience, now(), map[string]any{"aud": []string{audience}})),
		"no nbf":                     i.Token(i.Claims(audience, now(), map[string]any{"nbf": nil})),
		"fractions of seconds":       i.Token(i.Claims(audience, now(), map[string]any{"iat": float64(now().Unix()) - 0.5})),
		"a clock that is ahead":      i.Token(i.Claims(audience, now(), map[string]any{"iat": now().Unix() + 25, "nbf": now().Unix() + 25})),
	} {
		if err := prove(t, k, source, token); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := i.Requests(issuertest.KeysPath); n != 1 {
		t.Errorf("the keys were fetched %d times", n)
	}
	got, err := oidc.Parse(i.Token(claims), time.Now())
	if err != nil || got.Issuer != i.URL || got.Subject != "job" || got.Audience != audience || got.Lifetime() != 5*time.Minute {
		t.Errorf("read as %+v (%v)", got, err)
	}
}

func mustJSON(tb testing.TB, value any) []byte {
	tb.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		tb.Fatal(err)
	}
	return text
}

func TestForgedTokens(t *testing.T) {
	i, other := issuertest.New(t), issuertest.New(t)
	i.Publish(issuertest.JWK("first", issuertest.Key("first")), issuertest.JWK("rsa", issuertest.RSAKey()))
	k, source := prover(t, i)
	payload := string(mustJSON(t, i.Claims(audience, now(), nil)))
	good := i.Token(json.RawMessage(payload))
	part := strings.Split(good, ".")
	sign := func(header string) string { return issuertest.Sign(header, payload, issuertest.Key("first")) }
	attackers := mustJSON(t, issuertest.JWK("first", issuertest.Key("attacker")))
	unsigned := func(header string) string {
		return issuertest.Base64([]byte(header)) + "." + part[1]
	}
	hmacOf := func(secret []byte) string {
		signed := unsigned(`{"alg":"HS256","typ":"JWT","kid":"rsa"}`)
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(signed))
		return signed + "." + issuertest.Base64(mac.Sum(nil))
	}
	if err := prove(t, k, source, good); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ token, why string }{
		"no algorithm":                {unsigned(`{"alg":"none","kid":"first"}`) + ".", "signature is missing"},
		"no algorithm, signed":        {sign(`{"alg":"none","kid":"first"}`), "is not accepted"},
		"NONE":                        {sign(`{"alg":"NONE","kid":"first"}`), "is not accepted"},
		"alg in small letters":        {sign(`{"alg":"es256","kid":"first"}`), "is not accepted"},
		"no alg":                      {sign(`{"kid":"first"}`), "is not accepted"},
		"alg as a list":               {sign(`{"alg":["ES256"],"kid":"first"}`), "is not accepted"},
		"HMAC with the public key":    {hmacOf(issuertest.RSAKey().N.Bytes()), "is not accepted"},
		"an RSA key for ES256":        {sign(`{"alg":"ES256","kid":"rsa"}`), "not for the algorithm"},
		"an EC key for RS256":         {issuertest.Sign(`{"alg":"RS256","kid":"first"}`, payload, issuertest.RSAKey()), "not for the algorithm"},
		"another key":                 {issuertest.Sign(goodHeader, payload, issuertest.Key("attacker")), "signature is wrong"},
		"another key in the header":   {issuertest.Sign(`{"alg":"ES256","kid":"first","jwk":`+string(attackers)+`}`, payload, issuertest.Key("attacker")), "signature is wrong"},
		"a secret in the header":      {issuertest.Sign(`{"alg":"ES256","kid":"first","jwk":{"kty":"oct","k":"AAAA"}}`, payload, issuertest.Key("attacker")), "not a JWS"},
		"keys elsewhere":              {issuertest.Sign(`{"alg":"ES256","kid":"first","jku":"`+other.URL+`/keys","x5u":"`+other.URL+`/x"}`, payload, issuertest.Key("attacker")), "signature is wrong"},
		"a path as kid":               {sign(`{"alg":"ES256","kid":"../../../../dev/null"}`), "has no key"},
		"SQL as kid":                  {sign(`{"alg":"ES256","kid":"' OR 1=1 --"}`), "has no key"},
		"a huge kid":                  {sign(`{"alg":"ES256","kid":"` + strings.Repeat("x", 257) + `"}`), "kid must be"},
		"no kid":                      {sign(`{"alg":"ES256"}`), "kid must be"},
		"an empty kid":                {sign(`{"alg":"ES256","kid":""}`), "kid must be"},
		"a number as kid":             {sign(`{"alg":"ES256","kid":1}`), "kid must be"},
		"kid twice":                   {sign(`{"alg":"ES256","kid":"first","kid":"first"}`), "twice"},
		"crit":                        {sign(`{"alg":"ES256","kid":"first","crit":["exp"]}`), "crit"},
		"b64":                         {sign(`{"alg":"ES256","kid":"first","b64":false}`), "b64"},
		"zip":                         {sign(`{"alg":"ES256","kid":"first","zip":"DEF"}`), "zip"},
		"enc":                         {sign(`{"alg":"ES256","kid":"first","enc":"A128GCM"}`), "enc"},
		"another typ":                 {sign(`{"alg":"ES256","kid":"first","typ":"dpop+jwt"}`), "typ"},
		"typ as a list":               {sign(`{"alg":"ES256","kid":"first","typ":["JWT"]}`), "typ"},
		"a header that is a list":     {sign(`["ES256"]`), "no object"},
		"a header that is nothing":    {sign(``), "not JSON"},
		"a header with much in it":    {sign(`{"alg":"ES256","kid":"first","a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1,"i":1,"j":1,"k":1,"l":1,"m":1,"n":1,"o":1}`), "members"},
		"the claims of another token": {part[0] + "." + issuertest.Base64([]byte(strings.Replace(payload, "job", "boss", 1))) + "." + part[2], "signature is wrong"},
		"the signature of another":    {part[0] + "." + part[1] + "." + strings.Split(i.Token(map[string]any{"a": 1}), ".")[2], "signature is wrong"},
		"half a signature":            {good[:len(good)-20], ""},
		"an empty signature":          {part[0] + "." + part[1] + ".", "signature is missing"},
		"a signature of zeros":        {part[0] + "." + part[1] + "." + issuertest.Base64(make([]byte, 64)), "signature is wrong"},
		"two parts":                   {part[0] + "." + part[1], "3 parts, and this has 2"},
		"four parts":                  {good + ".", "has 4"},
		"five parts, as JWE":          {good + ".x.y", "has 5"},
		"a megabyte of dots":          {strings.Repeat(".", 1<<20), "more than 16384 bytes"},
		"many dots":                   {strings.Repeat(".", 16<<10), "3 parts"},
		"padding":                     {part[0] + "=." + part[1] + "." + part[2], "base64url"},
		"base64 of the other kind":    {part[0] + "." + part[1] + "." + strings.Repeat("+/", 43), "base64url"},
		"line breaks":                 {part[0] + "." + part[1][:4] + "\n" + part[1][4:] + "." + part[2], "line breaks"},
		"JSON as a whole":             {`{"protected":"` + part[0] + `","payload":"` + part[1] + `","signature":"` + part[2] + `"}`, "3 parts"},
		"another issuer's":            {other.Token(other.Claims(audience, now(), nil)), "another issuer"},
	} {
		refused(t, name, prove(t, k, source, c.token), c.why)
	}
	if n := other.Requests(issuertest.KeysPath) + other.Requests("/x"); n != 0 {
		t.Errorf("an address in a header was fetched %d times", n)
	}
}

// The last characters of base64 can have bits that mean nothing: the same bytes must not have two forms.
func TestBase64HasOneForm(t *testing.T) {
	i := issuertest.New(t)
	k, source := prover(t, i)
	good := i.Token(i.Claims(audience, now(), nil))
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(digits, good[len(good)-1]) // 64 bytes leave four bits that mean nothing.
	refused(t, "other bits", prove(t, k, source, good[:len(good)-1]+string(digits[last^1])), "base64url")
}

func TestClaims(t *testing.T) {
	i := issuertest.New(t)
	n := now().Unix()
	deep := any("x")
	for range 9 {
		deep = []any{deep}
	}
	many := map[string]any{}
	for _, name := range strings.Fields(strings.Repeat("x ", 65)) {
		many[name+string(rune('0'+len(many)))] = 1
	}
	for name, c := range map[string]struct {
		change map[string]any
		why    string
	}{
		"no iss":                      {map[string]any{"iss": nil}, "iss must be"},
		"an empty iss":                {map[string]any{"iss": ""}, "iss must be"},
		"iss is a list":               {map[string]any{"iss": []string{i.URL}}, "iss must be"},
		"no sub":                      {map[string]any{"sub": nil}, "sub must be"},
		"an empty sub":                {map[string]any{"sub": ""}, "sub must be"},
		"a huge sub":                  {map[string]any{"sub": strings.Repeat("x", 1025)}, "sub must be"},
		"no aud":                      {map[string]any{"aud": nil}, "aud must be"},
		"an empty aud":                {map[string]any{"aud": ""}, "aud must be"},
		"no audience in the list":     {map[string]any{"aud": []string{}}, "aud must be"},
		"two audiences":               {map[string]any{"aud": []string{audience, "x"}}, "aud must be"},
		"the audience twice":          {map[string]any{"aud": []string{audience, audience}}, "aud must be"},
		"aud is a map":                {map[string]any{"aud": map[string]any{audience: 1}}, "aud must be"},
		"no iat":                      {map[string]any{"iat": nil}, "iat must be a number"},
		"iat is a string":             {map[string]any{"iat": "1"}, "iat must be a number"},
		"iat is negative":             {map[string]any{"iat": -1}, "iat must be seconds"},
		"iat in the future":           {map[string]any{"iat": n + 40}, "iat is"},
		"no exp":                      {map[string]any{"exp": nil}, "exp must be a number"},
		"exp is a string":             {map[string]any{"exp": "9999999999"}, "exp must be a number"},
		"exp is true":                 {map[string]any{"exp": true}, "exp must be a number"},
		"exp beyond all numbers":      {map[string]any{"exp": json.RawMessage("1e400")}, "exp must be seconds"},
		"exp beyond exact numbers":    {map[string]any{"exp": json.RawMessage("9007199254740994")}, "exp must be seconds"},
		"exp in the past":             {map[string]any{"iat": n - 100, "nbf": nil, "exp": n - 1}, "expired"},
		"exp now":                     {map[string]any{"iat": n - 100, "nbf": nil, "exp": n}, "expired"},
		"exp is iat":                  {map[string]any{"iat": n + 20, "nbf": nil, "exp": n + 20}, "exp is not after iat"},
		"exp before iat":              {map[string]any{"iat": n + 20, "nbf": nil, "exp": n + 15}, "exp is not after iat"},
		"nbf in the future":           {map[string]any{"nbf": n + 40}, "nbf is"},
		"nbf is a string":             {map[string]any{"nbf": "1"}, "nbf must be a number"},
		"nested deeply":               {map[string]any{"x": deep}, "nested"},
		"many claims":                 {many, "members"},
		"claims are replaced by null": {map[string]any{"sub": json.RawMessage("null")}, "sub must be"},
	} {
		_, err := oidc.Parse(i.Token(i.Claims(audience, now(), c.change)), time.Unix(n, 0))
		refused(t, name, err, c.why)
	}
	for text, why := range map[string]string{
		`[]`:                  "no object",
		`null`:                "no object",
		`{`:                   "not JSON",
		`{"iss":"a"} {}`:      "not JSON",
		`{"a":1,"a":1}`:       "twice",
		`{"a":{"b":1,"b":2}}`: "twice",
		"{\"a\":\"\xff\"}":    "UTF-8",
	} {
		_, err := oidc.Parse(issuertest.Sign(goodHeader, text, issuertest.Key("first")), time.Now())
		refused(t, text, err, why)
	}
}

// What is allowed at most is allowed, and nothing beyond it.
func TestTokensAtTheirBounds(t *testing.T) {
	i := issuertest.New(t)
	n := now().Unix()
	claim := func(name string, value any) string {
		return i.Token(i.Claims(audience, now(), map[string]any{name: value}))
	}
	header := func(members string) string {
		return issuertest.Sign(`{"alg":"ES256",`+members+`}`, string(mustJSON(t, i.Claims(audience, now(), nil))), issuertest.Key("first"))
	}
	members := func(number int) (list string) {
		for m := range number {
			list += fmt.Sprintf(`,"%d":1`, m)
		}
		return list
	}
	claims := func(number int) string {
		text := string(mustJSON(t, i.Claims(audience, now(), nil))) // Six of them.
		return issuertest.Sign(goodHeader, strings.TrimSuffix(text, "}")+members(number-6)+"}", issuertest.Key("first"))
	}
	nested := func(depth int) json.RawMessage {
		return json.RawMessage(strings.Repeat("[", depth) + strings.Repeat("]", depth))
	}
	for name, c := range map[string]struct{ most, more, why string }{
		"kid":                {header(`"kid":"` + strings.Repeat("x", 256) + `"`), header(`"kid":"` + strings.Repeat("x", 257) + `"`), "kid must be"},
		"the header":         {header(`"kid":"x"` + members(14)), header(`"kid":"x"` + members(15)), "members"},
		"the header's depth": {header(`"kid":"x","y":` + string(nested(2))), header(`"kid":"x","y":` + string(nested(3))), "nested"},
		"the claims":         {claims(64), claims(65), "members"},
		"the claims' depth":  {claim("x", nested(7)), claim("x", nested(8)), "nested"},
		"sub":                {claim("sub", strings.Repeat("x", 1024)), claim("sub", strings.Repeat("x", 1025)), "sub must be"},
		"iat":                {claim("iat", n+30), claim("iat", n+31), "iat is"},
		"nbf":                {claim("nbf", n+30), claim("nbf", n+31), "nbf is"},
		"iat in the past":    {claim("iat", 0), claim("iat", -1), "iat must be"},
		"exp":                {claim("exp", 1<<53), claim("exp", 1<<53+2), "exp must be"},
	} {
		if _, err := oidc.Parse(c.most, time.Unix(n, 0)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		_, err := oidc.Parse(c.more, time.Unix(n, 0))
		refused(t, name, err, c.why)
	}
}

// FuzzParse: whatever is sent, it is an error or a token with all that later steps rely on.
func FuzzParse(f *testing.F) {
	f.Add(goodHeader, `{"iss":"https://a.example","sub":"s","aud":"a","iat":1,"exp":9007199254740992}`)
	f.Add(`{"alg":"none"}`, `{}`)
	f.Add(`{"alg":"RS256","kid":"x","jwk":{}}`, `{"exp":"1"}`)
	f.Add(`{"alg":"HS256","kid":"../../dev/null","crit":["exp"],"typ":"jwt"}`, `{"aud":["a","b"]}`)
	f.Add(`{"alg":"EdDSA","kid":"first","kid":"second"}`, `null`)
	f.Fuzz(func(t *testing.T, header, payload string) {
		at := time.Unix(1_000_000_000, 0)
		token, err := oidc.Parse(issuertest.Base64([]byte(header))+"."+issuertest.Base64([]byte(payload))+".c2ln", at)
		if err != nil {
			return
		}
		if token.Issuer == "" || token.Subject == "" || token.Audience == "" || !token.ExpiresAt.After(at) || token.Lifetime() <= 0 || token.IssuedAt.After(at.Add(time.Minute)) {
			t.Errorf("taken: %+v", token)
		}
		// As a reader would have it who knows nothing of the parser.
		var read map[string]any
		if err := json.Unmarshal([]byte(header), &read); err != nil {
			t.Fatalf("taken, and no JSON: %q", header)
		}
		kid, _ := read["kid"].(string)
		alg, _ := read["alg"].(string)
		if kid == "" || !slices.Contains([]string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"}, alg) {
			t.Errorf("taken: %q", header)
		}
		for _, name := range []string{"crit", "b64", "zip", "enc"} {
			if _, there := read[name]; there {
				t.Errorf("taken with %s: %q", name, header)
			}
		}
	})
}

// Where the issuer is asked, no keys are given, and nothing is wrong with that.
func TestNoKeysAreGiven(t *testing.T) {
	if n, err := (oidc.Source{Issuer: "https://a.example"}).Given(); n != 0 || err != nil {
		t.Errorf("%d keys, %v", n, err)
	}
}

// An issuer may have so many keys, each of a kind that can be trusted.
func TestKeysThatAreTaken(t *testing.T) {
	source := func(keys ...any) oidc.Source {
		return oidc.Source{Issuer: "https://a.example", JWKS: string(mustJSON(t, map[string]any{"keys": keys}))}
	}
	ofRSA := func(bits int, exponent int64, members ...string) map[string]any {
		n := new(big.Int).SetBit(big.NewInt(1), bits-1, 1)
		jwk := map[string]any{"kty": "RSA", "kid": "x", "n": issuertest.Base64(n.Bytes()), "e": issuertest.Base64(big.NewInt(exponent).Bytes())}
		for i := 0; i < len(members); i += 2 {
			jwk[members[i]] = members[i+1]
		}
		return jwk
	}
	for name, c := range map[string]struct {
		key  any
		want bool
	}{
		"2048 bits":            {ofRSA(2048, 65537), true},
		"2047 bits":            {ofRSA(2047, 65537), false},
		"4096 bits":            {ofRSA(4096, 65537), true},
		"4097 bits":            {ofRSA(4097, 65537), false},
		"the exponent 3":       {ofRSA(2048, 3), true},
		"the exponent 1":       {ofRSA(2048, 1), false},
		"an even exponent":     {ofRSA(2048, 4), false},
		"the exponent 65539":   {ofRSA(2048, 65539), false},
		"for signatures":       {ofRSA(2048, 3, "use", "sig"), true},
		"for encryption":       {ofRSA(2048, 3, "use", "enc"), false},
		"for RS512":            {ofRSA(2048, 3, "alg", "RS512"), true},
		"for ES256":            {ofRSA(2048, 3, "alg", "ES256"), false},
		"for HS256":            {ofRSA(2048, 3, "alg", "HS256"), false},
		"a long id":            {ofRSA(2048, 3, "kid", strings.Repeat("x", 256)), true},
		"an id that is longer": {ofRSA(2048, 3, "kid", strings.Repeat("x", 257)), false},
		"no id":                {ofRSA(2048, 3, "kid", ""), false},
		"no object":            {"x", false},
	} {
		// Beside one that is good, as none at all is another error.
		n, err := source(c.key, issuertest.JWK("good", issuertest.Key("first"))).Given()
		if err != nil || (n == 2) != c.want {
			t.Errorf("%s: %d keys are taken, %v", name, n, err)
		}
	}
	many := make([]any, 33)
	for i := range many {
		many[i] = issuertest.JWK(string(rune('A'+i)), issuertest.Key("first"))
	}
	if n, err := source(many[:32]...).Given(); err != nil || n != 32 {
		t.Errorf("of 32 keys %d are taken: %v", n, err)
	}
	if n, err := source(many...).Given(); err == nil {
		t.Errorf("of 33 keys %d are taken", n)
	}
}

// A key that its issuer published for one algorithm proves nothing by another.
func TestKeysAreForTheirAlgorithm(t *testing.T) {
	i := issuertest.New(t)
	narrow := issuertest.JWK("rsa", issuertest.RSAKey())
	narrow["alg"] = "RS512"
	i.Publish(narrow)
	k, source := prover(t, i)
	token := issuertest.Sign(`{"alg":"RS256","kid":"rsa"}`, string(mustJSON(t, i.Claims(audience, now(), nil))), issuertest.RSAKey())
	refused(t, "RS256", prove(t, k, source, token), "not for the algorithm")
}

// FuzzKeySet: whatever an issuer publishes, it is an error or has one key at least, and not too many.
func FuzzKeySet(f *testing.F) {
	f.Add(string(mustJSON(f, map[string]any{"keys": []any{issuertest.JWK("first", issuertest.Key("first")), map[string]any{"kty": "oct", "k": "AAAA"}}})))
	f.Add(string(mustJSON(f, map[string]any{"keys": []any{issuertest.JWK("rsa", issuertest.RSAKey())}})))
	f.Add(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"x","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`)
	f.Add(`{"keys":[]}`)
	f.Fuzz(func(t *testing.T, document string) {
		given, err := oidc.Source{Issuer: "https://a.example", JWKS: document}.Given()
		if document == "" || err != nil {
			return
		}
		var read struct{ Keys []struct{ Kid, Kty string } }
		if err := json.Unmarshal([]byte(document), &read); err != nil || given == 0 || given > len(read.Keys) || len(read.Keys) > 32 {
			t.Fatalf("taken as %d keys: %q", given, document)
		}
		for _, k := range read.Keys {
			if k.Kid != "" && (k.Kty == "RSA" || k.Kty == "EC" || k.Kty == "OKP") {
				return
			}
		}
		t.Errorf("taken without a key: %q", document)
	})
}
