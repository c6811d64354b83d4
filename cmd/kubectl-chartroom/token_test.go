package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/registryserver/access"
)

// operated is a cluster in which RegistryTokens have conditions as soon as they are looked at: pairs of type and message.
func operated(t *testing.T, conditions ...string) client.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	registry := &v1alpha1.HelmRegistry{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "charts"}}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(registry).WithInterceptorFuncs(interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, options ...client.GetOption) error {
			err := c.Get(ctx, key, o, options...)
			if token, ok := o.(*v1alpha1.RegistryToken); ok {
				token.Status.ExpiresAt = &metav1.Time{Time: time.Now().Add(token.Spec.TTL.Duration)}
				for i := 0; i < len(conditions); i += 2 {
					token.Status.Conditions = append(token.Status.Conditions, metav1.Condition{
						Type: conditions[i], Status: metav1.ConditionTrue, Message: conditions[i+1]})
				}
			}
			return err
		},
	}).Build()
}

// runs the command line in the namespace team-b.
func runs(t *testing.T, c client.Client, arguments ...string) (out, notes string, err error) {
	t.Helper()
	root := rootCommand(func(cluster) (client.Client, string, error) { return c, "team-b", nil })
	var stdout, stderr bytes.Buffer
	root.SetArgs(arguments)
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	err = root.ExecuteContext(t.Context())
	return stdout.String(), stderr.String(), err
}

func list(t *testing.T, c client.Client) []v1alpha1.RegistryToken {
	t.Helper()
	tokens := &v1alpha1.RegistryTokenList{}
	if err := c.List(t.Context(), tokens); err != nil {
		t.Fatal(err)
	}
	return tokens.Items
}

func TestTokenIsMadeHere(t *testing.T) {
	c := operated(t, v1alpha1.ConditionPropagated, "")
	out, notes, err := runs(t, c, "token", "team-a/charts", "--scopes=read_packages,write_packages", "--charts=web-*", "--ttl=1h", "--name=me", "--description=D")
	if err != nil {
		t.Fatal(err)
	}
	minted, err := access.ParseToken(strings.TrimSuffix(out, "\n"))
	if err != nil {
		t.Fatalf("standard output holds more or less than the token: %v", err)
	}
	if strings.Contains(notes, minted.Reveal()) || !strings.Contains(notes, "kubectl -n team-b delete registrytoken me") {
		t.Errorf("the notes are %q", notes)
	}
	tokens := list(t, c)
	if len(tokens) != 1 {
		t.Fatalf("there are %d RegistryTokens", len(tokens))
	}
	spec := tokens[0].Spec
	if id, err := access.IDOf(spec.SecretSHA256); err != nil || id != minted.ID() || spec.SecretSHA256 != minted.SHA256() {
		t.Errorf("the hash is %q, %v", spec.SecretSHA256, err)
	}
	if spec.RegistryRef != (v1alpha1.RegistryReference{Namespace: "team-a", Name: "charts"}) || len(spec.Scopes) != 2 ||
		len(spec.Charts) != 1 || spec.TTL.Duration != time.Hour || spec.Description != "D" || tokens[0].Namespace != "team-b" {
		t.Errorf("the object is %+v", tokens[0])
	}
}

func TestLoginLine(t *testing.T) {
	for name, c := range map[string]struct {
		arguments []string
		want      string
	}{
		"host of the registry": {[]string{"team-a/charts"}, " | helm registry login charts.team-a.svc --username chartroom --password-stdin\n"},
		"host that is given":   {[]string{"other", "--host=x:5000"}, " | helm registry login x:5000 --username"},
	} {
		t.Run(name, func(t *testing.T) {
			out, _, err := runs(t, operated(t, v1alpha1.ConditionPropagated, ""), append([]string{"token", "--login"}, c.arguments...)...)
			if err != nil || !strings.HasPrefix(out, "echo crt_") || !strings.Contains(out, c.want) {
				t.Errorf("%q, %v", out, err)
			}
		})
	}
	c := operated(t, v1alpha1.ConditionPropagated, "")
	if _, _, err := runs(t, c, "token", "--login", "other"); err == nil || !strings.Contains(err.Error(), "--host") || len(list(t, c)) != 0 {
		t.Errorf("a registry that cannot be read: %v, and %d objects are left", err, len(list(t, c)))
	}
}

// What comes to nothing leaves nothing behind, and prints no token.
func TestNothingIsLeftBehind(t *testing.T) {
	for name, c := range map[string]struct {
		client client.Client
		want   string
	}{
		"refused":      {operated(t, v1alpha1.ConditionStalled, "No such scope."), "No such scope."},
		"no operator":  {operated(t), "not in force after"},
		"not yet":      {operated(t, v1alpha1.ConditionReady, "Waiting for charts-2."), "Waiting for charts-2."},
		"not creating": {interceptor.NewClient(operated(t).(client.WithWatch), interceptor.Funcs{Create: forbid}), "creating a RegistryToken in the namespace team-b"},
	} {
		t.Run(name, func(t *testing.T) {
			out, _, err := runs(t, c.client, "token", "charts", "--timeout=300ms")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %v, want one with %q", err, c.want)
			}
			if out != "" || len(list(t, c.client)) != 0 {
				t.Errorf("%q was printed, %d objects are left", out, len(list(t, c.client)))
			}
		})
	}
}

func forbid(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error {
	return apierrors.NewForbidden(schema.GroupResource{Resource: "registrytokens"}, "", errors.New("no"))
}

func TestCompletion(t *testing.T) {
	c := operated(t)
	for _, line := range []struct {
		arguments []string
		want      string
	}{
		{[]string{"token", "x", "--scopes", "read_packages,"}, "read_packages,write_packages"},
		{[]string{"token", ""}, "charts"},
	} {
		root := rootCommand(func(cluster) (client.Client, string, error) { return c, "team-a", nil })
		var out bytes.Buffer
		root.SetArgs(append([]string{"__complete"}, line.arguments...))
		root.SetOut(&out)
		root.SetErr(&out)
		if err := root.ExecuteContext(t.Context()); err != nil || !strings.Contains(out.String(), line.want) {
			t.Errorf("%q completes to %q (%v), want %q", line.arguments, out.String(), err, line.want)
		}
	}
}
