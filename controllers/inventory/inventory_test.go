package inventory

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/reports"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// pods are those of every registry.
type pods struct{ *server }

func (p pods) Inventory(ctx context.Context, _ types.NamespacedName, ip, etag string) (*wire.Inventory, string, error) {
	return p.ask(ctx, ip, etag)
}

func named(name string, uid types.UID) *v1alpha1.HelmRegistry {
	return &v1alpha1.HelmRegistry{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: name, UID: uid}}
}

func TestRegistriesComeAndGo(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		recorder := events.NewFakeRecorder(10)
		s, first := newServer(), named("charts", "1")
		r := &Reconciler{
			Client: fake.NewClientBuilder().WithScheme(scheme).WithObjects(first).Build(),
			Pods:   pods{s}, Inventories: reports.NewInventories(), Recorder: recorder,
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- r.Start(ctx) }()
		expect := func(when string, waiting int, known ...string) {
			t.Helper()
			pass(5 * time.Second)
			if _, n := s.questions(); n != waiting {
				t.Errorf("%s %d pods are asked, want %d", when, n, waiting)
			}
			for _, name := range []string{"charts", "more"} {
				_, ok := r.Inventories.State(types.NamespacedName{Namespace: "team-a", Name: name})
				if want := strings.Contains(strings.Join(known, " "), name); ok != want {
					t.Errorf("%s the inventory of %s is known: %t", when, name, ok)
				}
			}
		}
		// What a reconciliation began outlives it.
		reconciling, over := context.WithCancel(t.Context())
		r.follow(reconciling, first, []pod{one})
		r.follow(reconciling, named("more", "2"), []pod{two})
		over()
		expect("of two", 2, "charts", "more")

		s.set(push("app", "1.0.0"))
		pass(time.Second)
		// Only one of the two is an object of which an event can tell.
		if got := <-recorder.Events; got != "Normal ChartsChanged The latest version of app is now 1.0.0." || len(recorder.Events) > 0 {
			t.Errorf("the event is %q, and %d more", got, len(recorder.Events))
		}

		r.follow(t.Context(), named("charts", "3"), nil)
		expect("when one was made anew", 1, "more")
		r.unfollow(client.ObjectKeyFromObject(named("more", "2")))
		expect("when one is gone", 0)
		r.follow(t.Context(), named("charts", "3"), []pod{one, two})
		expect("of two pods", 2, "charts")
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if _, n := s.questions(); n != 0 {
			t.Errorf("when the operator has stopped, %d pods are asked", n)
		}
		r.follow(t.Context(), named("more", "2"), []pod{one})
		expect("after that", 0, "charts")
	})
}
