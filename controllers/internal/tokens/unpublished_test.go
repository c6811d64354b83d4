package tokens

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

func TestDecideOnTokensMadeElsewhere(t *testing.T) {
	minted := mint(t, 1)
	for name, c := range map[string]struct {
		change  func(in *Input)
		action  Action
		reason  string
		expires string
	}{
		"new":               {func(*Input) {}, Keep, ReasonPublished, "14:00:00"},
		"asked to rotate":   {func(in *Input) { ask("now")(in.Token) }, Keep, ReasonPublished, "14:00:00"},
		"foreign Secret":    {func(in *Input) { in.Secret = &corev1.Secret{Type: corev1.SecretTypeOpaque} }, Keep, ReasonPublished, "14:00:00"},
		"revoked":           {func(in *Input) { in.Token.Spec.State = v1alpha1.TokenRevoked }, Revoke, ReasonRevoked, ""},
		"no registry":       {func(in *Input) { in.Registries = nil }, Wait, ReasonRegistryNotFound, ""},
		"another namespace": {func(in *Input) { in.Token.Namespace = "team-b" }, Stall, ReasonNamespaceNotAllowed, ""},
		"glob refused":      {func(in *Input) { in.Token.Spec.Charts = []string{"Web"} }, Stall, ReasonInvalidSpec, ""},
		"not a hash":        {func(in *Input) { in.Token.Spec.SecretSHA256 = "x" }, Stall, ReasonInvalidSpec, ""},
		"expired":           {func(in *Input) { in.Now = now.Add(2 * time.Hour) }, Expire, ReasonExpired, ""},
		"restored": {func(in *Input) {
			metav1.SetMetaDataAnnotation(&in.Token.ObjectMeta, v1alpha1.AnnotationIssuedAt, "2026-03-01T11:00:00Z")
		}, Keep, ReasonPublished, "13:00:00"},
		"restored after its end": {func(in *Input) {
			metav1.SetMetaDataAnnotation(&in.Token.ObjectMeta, v1alpha1.AnnotationIssuedAt, "2026-03-01T10:00:00Z")
		}, Expire, ReasonExpired, ""},
		"annotation of the future": {func(in *Input) {
			metav1.SetMetaDataAnnotation(&in.Token.ObjectMeta, v1alpha1.AnnotationIssuedAt, "2027-03-01T10:00:00Z")
		}, Keep, ReasonPublished, "14:00:00"},
		"annotation against the record": {func(in *Input) {
			metav1.SetMetaDataAnnotation(&in.Token.ObjectMeta, v1alpha1.AnnotationIssuedAt, "2026-03-01T12:00:00Z")
			in.Token.Status.TokenID, in.Token.Status.IssuedAt = minted.ID(), hoursFromNow(-1)
		}, Keep, ReasonPublished, "13:00:00"},
		"extended after its end": {func(in *Input) {
			in.Token.Status.TokenID, in.Token.Status.ExpiresAt = minted.ID(), hoursFromNow(-1)
		}, Expire, ReasonExpired, ""},
	} {
		t.Run(name, func(t *testing.T) {
			token := newToken()
			token.CreationTimestamp = metav1.NewTime(now)
			token.Spec.SecretSHA256, token.Spec.TTL = minted.SHA256(), &metav1.Duration{Duration: 2 * time.Hour}
			in := Input{Token: token, Registries: registries(newRegistry()), Now: now}
			c.change(&in)
			d := Decide(in)
			if d.Action != c.action || d.Reason != c.reason || d.InForce != (c.expires != "") {
				t.Fatalf("decided %v, %s, in force %v (%s); want %v, %s", d.Action, d.Reason, d.InForce, d.Message, c.action, c.reason)
			}
			if !d.InForce {
				return
			}
			entry := Entry(token, d.Credentials.Current)
			if entry.ID != minted.ID() || entry.SHA256 != minted.SHA256() || entry.ExpiresAt.Format(time.TimeOnly) != c.expires {
				t.Errorf("the entry is %+v", entry)
			}
			if _, err := access.Compile(wire.Access{Tokens: []wire.Token{entry}}); err != nil {
				t.Errorf("the server refuses it: %v", err)
			}
		})
	}
}
