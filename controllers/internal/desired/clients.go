package desired

import (
	"strconv"
	"strings"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
)

// clientArguments tell the server whom to believe, what to record of clients, and what they may ask for.
func clientArguments(s v1alpha1.HelmRegistrySpec) []string {
	var out []string
	if s.Audit.Reads {
		out = append(out, "--audit-reads")
	}
	if len(s.TrustedProxies) > 0 {
		out = append(out, "--trusted-proxies="+strings.Join(s.TrustedProxies, ","))
	}
	for _, limit := range []struct {
		flag  string
		value *int32
	}{{"--requests-per-second=", s.Limits.RequestsPerSecond}, {"--registry-requests-per-second=", s.Limits.RegistryRequestsPerSecond}} {
		if limit.value != nil {
			out = append(out, limit.flag+strconv.Itoa(int(*limit.value)))
		}
	}
	return out
}
