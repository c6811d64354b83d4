package desired

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
)

// garbageArguments tell the server when to collect garbage, where it is not to be as usual.
func garbageArguments(g v1alpha1.GarbageCollection) []string {
	var out []string
	for _, a := range []struct {
		flag  string
		value *metav1.Duration
	}{{"--gc-interval=", g.Interval}, {"--gc-grace=", g.Grace}, {"--gc-undo=", g.Undo}} {
		if a.value != nil {
			out = append(out, a.flag+a.value.Duration.String())
		}
	}
	return out
}
