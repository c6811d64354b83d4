package desired

import (
	"fmt"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
)

// Instructions are the command lines that a user pastes to log in, push and pull. TOKEN, CHART and VERSION in them are
// for the user to replace. Login names the bare host, because helm 4 refuses a path there. withAuthorities says whether
// the ConfigMap of the authorities is there.
func Instructions(r *v1alpha1.HelmRegistry, withAuthorities bool) v1alpha1.Instructions {
	fetch, flag := "", ""
	switch {
	case r.TLSMode() == v1alpha1.TLSNone:
		flag = " --plain-http"
	case withAuthorities:
		fetch = fmt.Sprintf("kubectl -n %s get configmap %s -o jsonpath='{.data.ca\\.crt}' > ca.crt\n", r.Namespace, AuthoritiesName(r))
		flag = " --ca-file ca.crt"
	}
	return v1alpha1.Instructions{
		Login: fetch + fmt.Sprintf("kubectl -n %s get secret TOKEN -o jsonpath='{.data.password}' | base64 -d | helm registry login %s --username chartroom --password-stdin%s",
			r.Namespace, r.Host(), flag),
		Push: fmt.Sprintf("helm push CHART-VERSION.tgz %s%s", r.OCIURL(), flag),
		Pull: fmt.Sprintf("helm pull %s/CHART --version VERSION%s", r.OCIURL(), flag),
	}
}
