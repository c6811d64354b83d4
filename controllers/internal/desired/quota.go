package desired

import (
	"strconv"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
)

// quotaArguments tell the server how much it may store.
func quotaArguments(q v1alpha1.Quota) []string {
	var out []string
	add := func(flag string, value *int64) {
		if value != nil {
			out = append(out, flag+strconv.FormatInt(*value, 10))
		}
	}
	add("--quota-size=", bytesOf(q.Size))
	add("--quota-charts=", q.Charts)
	add("--quota-versions=", q.Versions)
	add("--quota-chart-size=", bytesOf(q.ChartSize))
	return out
}

func bytesOf(q *resource.Quantity) *int64 {
	if q == nil {
		return nil
	}
	return ptr(q.Value())
}
