package registrytoken

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/ledger"
	"github.com/chartroom-dev/chartroom/controllers/internal/tokens"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// A registry that the token was for is not lost sight of before nobody admits the token there.
func TestPlaces(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	key := func(name string) types.NamespacedName { return types.NamespacedName{Namespace: "team-a", Name: name} }
	var objects []client.Object
	for _, name := range []string{"chosen", "admitting", "unasked", "free"} {
		objects = append(objects, &v1alpha1.HelmRegistry{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: name}})
	}
	with := &ledger.Snapshot{Access: wire.Access{Tokens: []wire.Token{{Name: "team-a/ci"}}}}
	without := &ledger.Snapshot{}
	record := ledger.New()
	record.Set(key("admitting"), ledger.State{Newest: without, InForce: with})
	record.Set(key("free"), ledger.State{Newest: without, InForce: without})
	r := &Reconciler{Client: fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build(), Ledger: record}

	token := &v1alpha1.RegistryToken{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "ci"},
		Spec: v1alpha1.RegistryTokenSpec{RegistrySelector: &metav1.LabelSelector{}}}
	for _, name := range []string{"chosen", "admitting", "unasked", "free", "deleted"} {
		token.Status.Registries = append(token.Status.Registries, v1alpha1.TokenRegistry{Name: name})
	}
	revoked, named := token.DeepCopy(), token.DeepCopy()
	revoked.Spec.State = v1alpha1.TokenRevoked
	named.Spec.RegistrySelector, named.Spec.RegistryRef = nil, v1alpha1.RegistryReference{Namespace: "team-b", Name: "charts"}
	for name, c := range map[string]struct {
		token *v1alpha1.RegistryToken
		want  map[string]bool // By whether it was left.
	}{
		"in force": {token, map[string]bool{"team-a/chosen": false, "team-a/admitting": true, "team-a/unasked": true}},
		// That a snapshot does not have it is no proof that one which is under way has not either.
		"revoked": {revoked, map[string]bool{"team-a/chosen": false, "team-a/admitting": true, "team-a/unasked": true, "team-a/free": true}},
		"named":   {named, map[string]bool{"team-b/charts": false}},
	} {
		t.Run(name, func(t *testing.T) {
			chosen := []*v1alpha1.HelmRegistry{objects[0].(*v1alpha1.HelmRegistry)}
			places, err := r.places(t.Context(), r.Client, tokens.Input{Token: c.token, Registries: chosen})
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]bool{}
			for _, p := range places {
				got[p.registry.String()] = p.left
			}
			if diff := cmp.Diff(c.want, got); diff != "" || len(got) != len(places) {
				t.Error(diff, places)
			}
		})
	}
}
