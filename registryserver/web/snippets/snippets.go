// Package snippets writes the lines that people copy from the pages: to log in, to push, to install. It is pure. Names of
// charts, versions and registries have no character that a shell or YAML could take for something else: see [Chart].
package snippets

import (
	"fmt"
	"path"
	"strings"
)

// Registry is a registry as clients reach it.
type Registry struct {
	// Host is host or host:port; Path is organization/registry.
	Host, Path string
	// PlainHTTP says that it is not served with TLS.
	PlainHTTP bool
	// Private says that reading needs a login.
	Private bool
	// Authority is the ConfigMap with the authority of the registry's certificate, as namespace/name; empty where clients
	// trust the certificate as it is, or where there is none.
	Authority string
}

// Chart is a version of a chart.
type Chart struct {
	// Name is the path below the registry (OCI Distribution Specification, "Pulling manifests"): lower-case letters,
	// digits, ".", "_", "-" and "/".
	Name string
	// Version is a tag with "+" in place of "_", or empty for what has no tag.
	Version string
	// Digest is that of the manifest.
	Digest string
	// Library charts are not installed but depended on.
	Library bool
}

// Snippet is something to copy.
type Snippet struct {
	// ID is unique on a page, Title says what it is for, Note what to know about it; Note may be empty.
	ID, Title, Note string
	// Text is what is copied.
	Text string
}

// flags are what each helm command needs to reach the registry.
func (r Registry) flags() string {
	switch {
	case r.PlainHTTP:
		return " --plain-http"
	case r.Authority != "":
		return " --ca-file ca.crt"
	}
	return ""
}

func (r Registry) oci() string { return "oci://" + r.Host + "/" + r.Path }

// URL is the registry's own address, which OIDC tokens are for.
func (r Registry) URL() string {
	if r.PlainHTTP {
		return "http://" + r.Host + "/" + r.Path
	}
	return "https://" + r.Host + "/" + r.Path
}

// hasAuthority says that clients must be told whom to trust.
func (r Registry) hasAuthority() bool { return r.Authority != "" && !r.PlainHTTP }

// authority is the command that gets the authority's certificate, with the line's end; empty where none is needed.
func (r Registry) authority() string {
	namespace, name, ok := strings.Cut(r.Authority, "/")
	if !ok || r.PlainHTTP {
		return ""
	}
	return fmt.Sprintf("kubectl -n %s get configmap %s -o jsonpath='{.data.ca\\.crt}' > ca.crt\n", namespace, name)
}

// Login is how to log in, with helm 3 and helm 4, with a token that is in $TOKEN.
func (r Registry) Login() Snippet {
	s := r.login(`"$TOKEN"`)
	s.Note = "TOKEN is a registry token or an OIDC token; any user name will do. Helm keeps one login for each host, so name the bare host."
	if r.PlainHTTP {
		s.Note += " Helm up to 3.17 has no --plain-http here: leave it out."
	}
	return s
}

// LoginWith is how to log in with a token of this program.
func (r Registry) LoginWith(token string) Snippet { return r.login("'" + token + "'") }

func (r Registry) login(token string) Snippet {
	return Snippet{
		ID: "login", Title: "Log in",
		Text: r.authority() + fmt.Sprintf(`printf %%s %s | %s`, token, r.pipedLogin()),
	}
}

// maxReleaseBytes is what helm takes for a name; those of namespaces may be longer.
const maxReleaseBytes = 53

// release is a name that helm takes for a release of the chart.
func (c Chart) release() string {
	name := strings.NewReplacer(".", "-", "_", "-").Replace(path.Base(c.Name))
	return strings.Trim(name[:min(len(name), maxReleaseBytes)], "-")
}

// Install are the ways to use a version of a chart.
func (r Registry) Install(c Chart) []Snippet {
	var all []Snippet
	if login := r.Login(); r.Private {
		all = append(all, login)
	} else if fetch := r.authority(); fetch != "" {
		all = append(all, Snippet{ID: "authority", Title: "Trust the certificate", Text: strings.TrimSuffix(fetch, "\n")})
	}
	reference := r.oci() + "/" + c.Name
	pinned := reference + "@" + c.Digest
	version := " --version " + c.Version
	which := reference + version
	if c.Version == "" {
		which = pinned
	}
	all = append(all, Snippet{ID: "pull", Title: "Pull", Text: "helm pull " + which + r.flags()})
	if !c.Library {
		all = append(all,
			Snippet{ID: "install", Title: "Install", Text: "helm install " + c.release() + " " + which + r.flags()},
			Snippet{ID: "upgrade", Title: "Upgrade, or install where it is not", Text: "helm upgrade --install " + c.release() + " " + which + r.flags()},
		)
	}
	if c.Version != "" {
		all = append(all, Snippet{
			ID: "dependency", Title: "As a dependency", Note: "In Chart.yaml; then run helm dependency update" + r.flags() + ".",
			Text: fmt.Sprintf("dependencies:\n- name: %s\n  version: %q\n  repository: %s\n", path.Base(c.Name), c.Version, strings.TrimSuffix(reference, "/"+path.Base(c.Name))),
		})
	}
	if !c.Library {
		all = append(all, r.flux(c))
	}
	if !c.Library && c.Version != "" {
		all = append(all, r.argo(c))
	}
	return append(all, Snippet{
		ID: "digest", Title: "Pinned to the digest", Note: "The digest names this content and no other, whatever becomes of the version.",
		Text: "helm pull " + pinned + r.flags(),
	})
}

func (r Registry) flux(c Chart) Snippet {
	var b strings.Builder
	name := c.release()
	fmt.Fprintf(&b, "apiVersion: source.toolkit.fluxcd.io/v1\nkind: OCIRepository\nmetadata:\n  name: %s\nspec:\n  interval: 10m\n  url: %s/%s\n", name, r.oci(), c.Name)
	if c.Version == "" {
		fmt.Fprintf(&b, "  ref:\n    digest: %s\n", c.Digest)
	} else {
		fmt.Fprintf(&b, "  ref:\n    tag: %q\n", strings.ReplaceAll(c.Version, "+", "_"))
	}
	b.WriteString("  layerSelector:\n    mediaType: application/vnd.cncf.helm.chart.content.v1.tar+gzip\n    operation: copy\n")
	var notes []string
	if r.PlainHTTP {
		b.WriteString("  insecure: true\n")
	}
	if r.Private {
		b.WriteString("  secretRef:\n    name: charts-pull\n")
		notes = append(notes, "charts-pull is the Secret of a RegistryToken, or any of the type kubernetes.io/dockerconfigjson.")
	}
	if r.hasAuthority() {
		b.WriteString("  certSecretRef:\n    name: charts-ca\n")
		notes = append(notes, "charts-ca is a Secret with the registry's authority as ca.crt.")
	}
	fmt.Fprintf(&b, "---\napiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata:\n  name: %s\nspec:\n  interval: 10m\n  chartRef:\n    kind: OCIRepository\n    name: %s\n", name, name)
	return Snippet{ID: "flux", Title: "Flux", Note: strings.Join(notes, " "), Text: b.String()}
}

func (r Registry) argo(c Chart) Snippet {
	var b strings.Builder
	parent := strings.TrimSuffix(r.Host+"/"+r.Path+"/"+c.Name, "/"+path.Base(c.Name))
	fmt.Fprintf(&b, `apiVersion: argoproj.io/v1alpha1
kind: Application
metadata:
  name: %[1]s
  namespace: argocd
spec:
  project: default
  source:
    repoURL: %[2]s
    chart: %[3]s
    targetRevision: %[4]q
  destination:
    server: https://kubernetes.default.svc
    namespace: %[1]s
  syncPolicy:
    syncOptions: [CreateNamespace=true]
`, c.release(), parent, path.Base(c.Name), c.Version)
	note := "Argo CD must know the registry as a Helm repository with OCI: a RegistryToken with the format argocd makes the Secret for it."
	return Snippet{ID: "argocd", Title: "Argo CD", Note: note, Text: b.String()}
}

// Publish are the ways to push a chart.
func (r Registry) Publish() []Snippet {
	trust := ""
	if r.hasAuthority() {
		trust = " --cacert ca.crt"
	}
	ways := []Snippet{
		r.Login(),
		{ID: "push", Title: "Push with helm 3 or helm 4", Note: "helm package makes the archive. A token needs read_packages and write_packages for it.", Text: r.push("CHART-VERSION.tgz")},
		{
			ID: "curl", Title: "Push with curl", Note: "Without helm: the registry makes of the archive what helm push makes of it. With -F prov=@… its provenance goes along.",
			Text: fmt.Sprintf(`curl --fail-with-body%s --user "chartroom:$TOKEN" -F chart=@CHART-VERSION.tgz %s/helm/api/charts`, trust, r.URL()),
		},
	}
	return append(append(ways, r.jobs()...), r.pod())
}

func (r Registry) push(archive string) string {
	return fmt.Sprintf("helm push %s %s%s", archive, r.oci(), r.flags())
}

// pipedLogin takes the token from its standard input.
func (r Registry) pipedLogin() string {
	return fmt.Sprintf("helm registry login %s%s --username chartroom --password-stdin", r.Host, r.flags())
}

// jobs push a chart from systems of CI.
func (r Registry) jobs() []Snippet {
	login, packaged, audience := r.pipedLogin(), r.push("CHART-*.tgz"), r.URL()
	// They have no kubectl: what they trust is in a variable, or what takes its place.
	environment, fetch, variable := "- run: |", func(string) string { return "" }, func(string, string) string { return "" }
	if r.hasAuthority() {
		environment = "- env: {CHARTS_CA: \"${{ vars.CHARTS_CA }}\"}\n        run: |"
		fetch = func(line string) string { return line + " > ca.crt\n" }
		variable = func(kind, form string) string {
			return " Let " + kind + " CHARTS_CA hold the ca.crt of the login above" + form + "."
		}
	}
	return []Snippet{
		{
			ID: "github", Title: "GitHub Actions", Note: "With the job's own token; an OIDCPolicy says which repositories may push. Nothing is stored as a secret." + variable("the repository's variable", ""),
			Text: fmt.Sprintf(`permissions:
  contents: read
  id-token: write
jobs:
  release:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      %s
%s          helm package ./CHART
          curl -sSfH "Authorization: Bearer $ACTIONS_ID_TOKEN_REQUEST_TOKEN" \
            "$ACTIONS_ID_TOKEN_REQUEST_URL&audience=%s" | jq -r .value |
            %s
          %s
`, environment, fetch("          printenv CHARTS_CA"), audience, login, packaged),
		},
		{
			ID: "gitlab", Title: "GitLab CI", Note: "With the job's own token, as an OIDCPolicy allows." + variable("the project's variable", ""),
			Text: fmt.Sprintf(`release:
  timeout: 10m
  id_tokens:
    CHARTS_TOKEN: {aud: %s}
  script:
%s    - helm package ./CHART
    - printf %%s "$CHARTS_TOKEN" | %s
    - %s
`, audience, fetch("    - printenv CHARTS_CA"), login, packaged),
		},
		{
			ID: "buildkite", Title: "Buildkite", Note: "With the step's own token, as an OIDCPolicy allows." + variable("the cluster's secret", ""),
			Text: fmt.Sprintf(`steps:
  - label: release
    command: |
%s      helm package ./CHART
      buildkite-agent oidc request-token --audience %s --lifetime 300 |
        %s
      %s
`, fetch("      buildkite-agent secret get CHARTS_CA"), audience, login, packaged),
		},
		{
			ID: "circleci", Title: "CircleCI", Note: "With a token of the job's own for this registry, as an OIDCPolicy allows." + variable("the project's environment variable", ", in base64"),
			Text: fmt.Sprintf(`jobs:
  release:
    docker: [{image: IMAGE-WITH-HELM}]
    steps:
      - checkout
      - run: |
%s          helm package ./CHART
          circleci run oidc get --claims '{"aud": "%s"}' |
            %s
          %s
`, fetch("          printenv CHARTS_CA | base64 -d"), audience, login, packaged),
		},
	}
}

// pod pushes a chart from within a cluster.
func (r Registry) pod() Snippet {
	sources := ""
	if r.hasAuthority() {
		namespace, authority, _ := strings.Cut(r.Authority, "/")
		sources = fmt.Sprintf("\n      # This ConfigMap is in the namespace %s: a pod in another one needs a copy of it there.\n      - configMap: {name: %s}", namespace, authority)
	}
	inPod := strings.NewReplacer(" ca.crt", " /charts/ca.crt")
	return Snippet{
		ID: "cluster", Title: "From a pod", Note: "With the token of the pod's service account, as an OIDCPolicy with iss: kubernetes allows.",
		Text: fmt.Sprintf(`spec:
  serviceAccountName: publisher
  containers:
  - name: publish
    image: IMAGE-WITH-HELM
    command: [sh, -c]
    args:
    - |
      %s < /charts/token
      %s
    volumeMounts:
    - {name: charts, mountPath: /charts}
  volumes:
  - name: charts
    projected:
      sources:
      - serviceAccountToken: {path: token, audience: "%s", expirationSeconds: 3600}%s
`, inPod.Replace(r.pipedLogin()), inPod.Replace(r.push("CHART-VERSION.tgz")), r.URL(), sources),
	}
}
