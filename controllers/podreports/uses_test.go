package podreports

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/chartroom-dev/chartroom/controllers/internal/reports"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// pod answers with uses, or with err.
type pod struct {
	uses  wire.Uses
	err   error
	asked int
}

func (p *pod) About(context.Context, types.NamespacedName, string) (wire.About, error) {
	return wire.About{}, nil
}

func (p *pod) Uses(context.Context, types.NamespacedName, string) (wire.Uses, error) {
	p.asked++
	return p.uses, p.err
}

func TestUsesAreAskedForWhenTheyChange(t *testing.T) {
	early, late := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	known := reports.PodUses{Count: 3, At: map[string]time.Time{"x": early}}
	said := wire.Uses{Count: 5, Tokens: []wire.TokenUse{{SHA256: "x", At: late}, {SHA256: "x", At: early}, {SHA256: "y", At: early}}}
	for name, c := range map[string]struct {
		count uint64
		pod   pod
		asked int
		want  reports.PodUses
	}{
		"nothing new":               {3, pod{uses: said}, 0, known},
		"something new":             {4, pod{uses: said}, 1, reports.PodUses{Count: 5, At: map[string]time.Time{"x": late, "y": early}}},
		"the pod was started again": {0, pod{uses: wire.Uses{}}, 1, reports.PodUses{At: map[string]time.Time{}}},
		"the pod does not say":      {4, pod{err: errors.New("x")}, 1, known},
	} {
		t.Run(name, func(t *testing.T) {
			r := &Reconciler{Pods: &c.pod}
			got := r.askUses(t.Context(), types.NamespacedName{}, "10.0.0.1", wire.About{Uses: c.count}, known)
			if diff := cmp.Diff(c.want, got); diff != "" || c.pod.asked != c.asked {
				t.Errorf("asked %d times, want %d: %s", c.pod.asked, c.asked, diff)
			}
		})
	}
}
