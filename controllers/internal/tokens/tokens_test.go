package tokens

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func mint(t *testing.T, seed byte) access.Token {
	t.Helper()
	token, err := access.Mint(bytes.NewReader(bytes.Repeat([]byte{seed}, 64)))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func newToken() *v1alpha1.RegistryToken {
	return &v1alpha1.RegistryToken{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "ci", UID: "uid-ci"},
		Spec:       v1alpha1.RegistryTokenSpec{RegistryRef: v1alpha1.RegistryReference{Name: "charts"}},
	}
}

func newRegistry() *v1alpha1.HelmRegistry {
	return &v1alpha1.HelmRegistry{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "charts"}}
}

func registries(all ...*v1alpha1.HelmRegistry) []*v1alpha1.HelmRegistry { return all }

func publish(token *v1alpha1.RegistryToken, c Credentials) *corev1.Secret {
	return BuildSecret(token, registries(newRegistry()), c, nil)
}

// current are the credentials of a token that was issued some hours ago, and is alone.
func current(token *v1alpha1.RegistryToken, minted access.Token, hours int) Credentials {
	return Credentials{Current: NewCredential(token, minted, now.Add(-time.Duration(hours)*time.Hour))}
}

func hoursFromNow(h int) *metav1.Time {
	at := metav1.NewTime(now.Add(time.Duration(h) * time.Hour))
	return &at
}

func TestDecide(t *testing.T) {
	minted := mint(t, 1)
	for name, c := range map[string]struct {
		change  func(in *Input)
		action  Action
		reason  string
		inForce bool
		message string
	}{
		"published": {func(*Input) {}, Keep, ReasonPublished, true, ""},
		"new":       {func(in *Input) { in.Secret = nil }, Issue, ReasonIssued, false, ""},
		"deleted Secret": {func(in *Input) {
			in.Secret, in.Token.Status.TokenID = nil, minted.ID()
		}, Issue, ReasonSecretMissing, false, "crt_" + minted.ID() + " has ended"},
		"revoked":       {func(in *Input) { in.Token.Spec.State = v1alpha1.TokenRevoked }, Revoke, ReasonRevoked, false, ""},
		"being deleted": {func(in *Input) { in.Token.DeletionTimestamp = hoursFromNow(0) }, Revoke, ReasonRevoked, false, ""},
		"revoked, and no registry": {func(in *Input) {
			in.Token.Spec.State, in.Registries = v1alpha1.TokenRevoked, nil
		}, Revoke, ReasonRevoked, false, ""},
		"no registry": {func(in *Input) { in.Registries = nil }, Wait, ReasonRegistryNotFound, false, "team-a/charts"},

		"foreign Secret":          {func(in *Input) { in.Secret = &corev1.Secret{Type: corev1.SecretTypeOpaque} }, Stall, ReasonNameTaken, false, "another type"},
		"no labels and no owner":  {func(in *Input) { in.Secret.Labels, in.Secret.OwnerReferences = nil, nil }, Stall, ReasonNameTaken, false, "labels"},
		"label of another token":  {func(in *Input) { in.Secret.Labels[v1alpha1.LabelToken], in.Secret.OwnerReferences = "x", nil }, Stall, ReasonNameTaken, false, "labels"},
		"owned by another object": {func(in *Input) { in.Secret.OwnerReferences[0].UID, in.Secret.OwnerReferences[0].Name = "x", "x" }, Stall, ReasonNameTaken, false, "another object"},
		"restored, but damaged":   {func(in *Input) { in.Secret.OwnerReferences, in.Secret.Data = nil, nil }, Stall, ReasonNameTaken, false, "no valid token"},
		"owned, of another type":  {func(in *Input) { in.Secret.Type = corev1.SecretTypeOpaque }, Stall, ReasonNameTaken, false, "another type"},
		"restored":                {func(in *Input) { in.Secret.OwnerReferences = nil }, Adopt, ReasonAdopted, true, minted.ID()},
		"restored with its owner": {func(in *Input) { in.Secret.OwnerReferences[0].UID = "before" }, Adopt, ReasonAdopted, true, ""},

		"label taken off":     {func(in *Input) { in.Secret.Labels = nil }, Keep, ReasonPublished, true, ""},
		"password edited":     {func(in *Input) { in.Secret.Data[KeyPassword] = []byte("hunter2") }, Issue, ReasonSecretChanged, false, "not a token"},
		"another token in it": {func(in *Input) { in.Secret.Data[KeyPassword] = []byte(mint(t, 2).Reveal()) }, Issue, ReasonSecretChanged, false, v1alpha1.AnnotationTokenID},
		"id edited":           {func(in *Input) { in.Secret.Annotations[v1alpha1.AnnotationTokenID] = "x" }, Issue, ReasonSecretChanged, false, ""},
		"issue edited":        {func(in *Input) { in.Secret.Annotations[v1alpha1.AnnotationIssuedAt] = "x" }, Issue, ReasonSecretChanged, false, ""},
		"expiry edited":       {func(in *Input) { in.Secret.Annotations[v1alpha1.AnnotationExpiresAt] = "x" }, Issue, ReasonSecretChanged, false, ""},
		"ended token put back": {func(in *Input) {
			in.Token.Status.TokenID = mint(t, 2).ID()
		}, Issue, ReasonSecretChanged, false, "issued last"},

		"expired by ttl":          {func(in *Input) { in.Token.Spec.TTL = &metav1.Duration{Duration: time.Hour} }, Expire, ReasonExpired, false, "2026-03-01T12:00:00Z"},
		"expired by instant":      {func(in *Input) { in.Token.Spec.ExpiresAt = hoursFromNow(0) }, Expire, ReasonExpired, false, ""},
		"not yet expired":         {func(in *Input) { in.Token.Spec.TTL = &metav1.Duration{Duration: time.Hour + time.Second} }, Keep, ReasonPublished, true, ""},
		"restored after expiry":   {func(in *Input) { expire(in.Secret); in.Secret.OwnerReferences = nil }, Expire, ReasonExpired, false, ""},
		"extended after expiry":   {func(in *Input) { expire(in.Secret); in.Token.Spec.ExpiresAt = hoursFromNow(9) }, Expire, ReasonExpired, false, ""},
		"expired, Secret deleted": {func(in *Input) { in.Secret, in.Token.Status.ExpiresAt = nil, hoursFromNow(-1) }, Expire, ReasonExpired, false, ""},
		"expired before issue":    {func(in *Input) { in.Secret, in.Token.Spec.ExpiresAt = nil, hoursFromNow(-1) }, Expire, ReasonExpired, false, ""},
		"issue annotation moved on, against the record": {func(in *Input) {
			in.Secret.Annotations[v1alpha1.AnnotationIssuedAt] = now.Format(time.RFC3339)
			in.Token.Status.TokenID, in.Token.Status.IssuedAt = minted.ID(), hoursFromNow(-3)
			in.Token.Spec.TTL = &metav1.Duration{Duration: 2 * time.Hour}
		}, Expire, ReasonExpired, false, ""},

		"template refused": {func(in *Input) {
			in.Token.Spec.SecretTemplate.Labels = map[string]string{"argocd.argoproj.io/secret-type": "cluster"}
		}, Stall, ReasonInvalidSecretTemplate, true, "argocd.argoproj.io/secret-type"},
		"template refused before issue": {func(in *Input) {
			in.Secret = nil
			in.Token.Spec.SecretTemplate.Labels = map[string]string{"argocd.argoproj.io/secret-type": "cluster"}
		}, Stall, ReasonInvalidSecretTemplate, false, ""},
		"glob refused": {func(in *Input) { in.Token.Spec.Charts = []string{"Web"} }, Stall, ReasonInvalidSpec, false, "glob"},
	} {
		t.Run(name, func(t *testing.T) {
			token := newToken()
			in := Input{Token: token, Registries: registries(newRegistry()), Now: now,
				Secret: publish(token, current(token, minted, 1))}
			c.change(&in)
			d := Decide(in)
			if d.Action != c.action || d.Reason != c.reason || d.InForce != c.inForce {
				t.Fatalf("decided %v, %s, in force %v (%s); want %v, %s, %v", d.Action, d.Reason, d.InForce, d.Message, c.action, c.reason, c.inForce)
			}
			if !strings.Contains(d.Message, c.message) {
				t.Errorf("the message %q does not say %q", d.Message, c.message)
			}
			if strings.Contains(d.Message, minted.Reveal()) || strings.Contains(d.Message, "hunter2") {
				t.Errorf("the message quotes the secret: %q", d.Message)
			}
			if d.InForce && d.Credentials.Current.Token != minted {
				t.Errorf("the token in force is %v, want %v", d.Credentials.Current, minted)
			}
		})
	}
}

func expire(s *corev1.Secret) {
	s.Annotations[v1alpha1.AnnotationExpiresAt] = now.Add(-time.Second).Format(time.RFC3339)
}

func TestAdmit(t *testing.T) {
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"team": "b"}}
	for name, c := range map[string]struct {
		namespace string
		labels    map[string]string
		scopes    []v1alpha1.Scope
		allowed   v1alpha1.AllowedNamespaces
		want      string
	}{
		"own namespace, any scope": {"team-a", nil, []v1alpha1.Scope{v1alpha1.ScopeDelete}, v1alpha1.AllowedNamespaces{}, ""},
		"foreign by default":       {"team-b", nil, nil, v1alpha1.AllowedNamespaces{}, "own namespace only"},
		"all":                      {"team-b", nil, nil, v1alpha1.AllowedNamespaces{From: v1alpha1.NamespacesAll}, ""},
		"selected":                 {"team-b", map[string]string{"team": "b"}, nil, v1alpha1.AllowedNamespaces{From: v1alpha1.NamespacesSelector, Selector: selector}, ""},
		"not selected":             {"team-c", map[string]string{"team": "c"}, nil, v1alpha1.AllowedNamespaces{From: v1alpha1.NamespacesSelector, Selector: selector}, "selector"},
		"no selector":              {"team-b", map[string]string{"team": "b"}, nil, v1alpha1.AllowedNamespaces{From: v1alpha1.NamespacesSelector}, "selector"},
		"scope by default":         {"team-b", nil, []v1alpha1.Scope{v1alpha1.ScopeRead, v1alpha1.ScopeWrite}, v1alpha1.AllowedNamespaces{From: v1alpha1.NamespacesAll}, "write_packages"},
		"scope given": {"team-b", nil, []v1alpha1.Scope{v1alpha1.ScopeWrite},
			v1alpha1.AllowedNamespaces{From: v1alpha1.NamespacesAll, MaxScopes: []v1alpha1.Scope{v1alpha1.ScopeWrite}}, ""},
		"scope not given": {"team-b", nil, nil,
			v1alpha1.AllowedNamespaces{From: v1alpha1.NamespacesAll, MaxScopes: []v1alpha1.Scope{v1alpha1.ScopeWrite}}, "read_packages"},
	} {
		t.Run(name, func(t *testing.T) {
			token, registry := newToken(), newRegistry()
			token.Namespace, token.Spec.Scopes, registry.Spec.AllowedNamespaces = c.namespace, c.scopes, c.allowed
			err := Admit(token, registry, c.labels)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestBuildSecret(t *testing.T) {
	token, minted := newToken(), mint(t, 1)
	token.Spec.SecretTemplate = v1alpha1.SecretTemplate{
		Name: "pull", Labels: map[string]string{"team": "a"}, Annotations: map[string]string{"example.com/for": "CI"}}
	token.Spec.ExpiresAt = hoursFromNow(1)
	got := BuildSecret(token, registries(newRegistry()), current(token, minted, 0), []byte("PEM"))
	yes := true
	want := &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		Type:     corev1.SecretTypeDockerConfigJson,
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "team-a", Name: "pull",
			Labels: map[string]string{"team": "a", v1alpha1.LabelManagedBy: "chartroom", v1alpha1.LabelToken: "ci"},
			Annotations: map[string]string{
				"example.com/for":            "CI",
				v1alpha1.AnnotationTokenID:   minted.ID(),
				v1alpha1.AnnotationIssuedAt:  "2026-03-01T12:00:00Z",
				v1alpha1.AnnotationExpiresAt: "2026-03-01T13:00:00Z",
			},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "chartroom.dev/v1alpha1", Kind: "RegistryToken", Name: "ci", UID: "uid-ci", Controller: &yes}},
		},
		Data: map[string][]byte{
			"username": []byte("chartroom"),
			"password": []byte(minted.Reveal()),
			"registry": []byte("charts.team-a.svc"),
			"url":      []byte("https://charts.team-a.svc/team-a/charts"),
			"ca.crt":   []byte("PEM"),
			".dockerconfigjson": []byte(`{"auths":{"charts.team-a.svc":{"username":"chartroom","password":"` + minted.Reveal() +
				`","auth":"` + base64.StdEncoding.EncodeToString([]byte("chartroom:"+minted.Reveal())) + `"}}}`),
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestEntry(t *testing.T) {
	token, minted := newToken(), mint(t, 1)
	token.Spec.TTL = &metav1.Duration{Duration: 90 * time.Minute}
	at := now.Add(90 * time.Minute)
	got := Entry(token, NewCredential(token, minted, now))
	want := wire.Token{ID: minted.ID(), SHA256: minted.SHA256(), Name: "team-a/ci",
		Scopes: []wire.Scope{wire.ReadPackages}, Charts: []string{"*"}, ExpiresAt: &at}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := access.Compile(wire.Access{Tokens: []wire.Token{got}}); err != nil {
		t.Errorf("the server refuses the entry: %v", err)
	}
}

func TestCheckTemplate(t *testing.T) {
	label := func(key, value string) v1alpha1.SecretTemplate {
		return v1alpha1.SecretTemplate{Labels: map[string]string{key: value}}
	}
	annotation := func(key string) v1alpha1.SecretTemplate {
		return v1alpha1.SecretTemplate{Annotations: map[string]string{key: "x"}}
	}
	for name, c := range map[string]struct {
		template v1alpha1.SecretTemplate
		want     string
	}{
		"nothing":              {v1alpha1.SecretTemplate{}, ""},
		"own label":            {label("team.example.com/name", "a"), ""},
		"recommended label":    {label("app.kubernetes.io/part-of", "a"), ""},
		"managed-by":           {label("app.kubernetes.io/managed-by", "a"), "steers"},
		"ours":                 {label("chartroom.dev/registry", "a"), "steers"},
		"Argo CD's":            {label("argocd.argoproj.io/secret-type", "repository"), "steers"},
		"Kubernetes' own":      {label("kubernetes.io/x", "a"), "steers"},
		"Flux'":                {label("reconcile.fluxcd.io/watch", "Enabled"), "steers"},
		"not a key":            {label("a b", "a"), "not one of a label"},
		"not a value":          {label("a", "a b"), "not one of a label"},
		"annotation":           {annotation("example.com/x"), ""},
		"Argo CD's annotation": {annotation("argocd.argoproj.io/sync-options"), ""},
		"our annotation":       {annotation("chartroom.dev/token-id"), "operator's own"},
		"not an annotation":    {annotation("a b"), "not one of an annotation"},
	} {
		t.Run(name, func(t *testing.T) {
			err := CheckTemplate(c.template)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// Whatever a Secret holds, a decision is made, it quotes nothing, and only a whole token gets into force.
func FuzzDecide(f *testing.F) {
	whole, err := access.Mint(bytes.NewReader(bytes.Repeat([]byte{1}, 64)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole.Reveal(), whole.ID(), "2026-03-01T11:00:00Z", "2026-03-01T13:00:00Z", whole.Reveal(), whole.ID(), whole.SHA256(), "2026-03-01T13:00:00Z")
	f.Add("crt_hunter2-hunter2", "x", "yesterday", "", "", "", "", "")
	f.Add("crt__", "", "0000-00-00T00:00:00Z", "9999-12-31T23:59:59+23:59", "crt__", "x", "é", "9999-12-31T23:59:59+23:59")
	f.Fuzz(func(t *testing.T, password, id, issued, expires, next, previous, hash, end string) {
		token := rotating()
		secret := publish(token, current(token, whole, 0))
		secret.Data[KeyPassword], secret.Data[KeyNext] = []byte(password), []byte(next)
		secret.Annotations = map[string]string{
			v1alpha1.AnnotationTokenID: id, v1alpha1.AnnotationIssuedAt: issued, v1alpha1.AnnotationExpiresAt: expires,
			v1alpha1.AnnotationNextIssuedAt: issued,
			v1alpha1.AnnotationPreviousID:   previous, v1alpha1.AnnotationPreviousSHA256: hash, v1alpha1.AnnotationPreviousExpiresAt: end}
		d := Decide(Input{Token: token, Registries: registries(newRegistry()), Secret: secret, Now: now})
		if len(password) > 12 && strings.HasPrefix(password, "crt_") && strings.Contains(d.Message, password) {
			t.Errorf("the message quotes the password: %s", d.Message)
		}
		if !d.InForce {
			return
		}
		a := wire.Access{}
		for _, c := range []*Credential{&d.Credentials.Current, d.Credentials.Previous, d.Credentials.Next} {
			if c == nil {
				continue
			}
			if c.Expired(now) {
				t.Errorf("%v is in force and has expired", c)
			}
			a.Tokens = append(a.Tokens, Entry(token, *c))
		}
		if d.Credentials.Current.Token.Reveal() != password {
			t.Error("a token is in force that is not in the Secret")
		}
		if _, err := access.Compile(a); err != nil {
			t.Errorf("one Secret spoils the snapshot of all: %v", err)
		}
	})
}
