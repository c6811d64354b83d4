package desired

import (
	"fmt"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// Presentation is what the pages of a registry say of it. Pods are given it beside the access snapshot, so that a change
// of a text replaces none.
func Presentation(r *v1alpha1.HelmRegistry) wire.Presentation {
	p := wire.Presentation{DisplayName: r.Spec.DisplayName, Description: r.Spec.Description, Emoji: r.Spec.Emoji, Color: r.Spec.Color}
	if r.TLSMode() == v1alpha1.TLSSelfSigned {
		p.Authority = r.Namespace + "/" + AuthoritiesName(r)
	}
	return p
}

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
