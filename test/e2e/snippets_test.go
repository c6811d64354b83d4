//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

var (
	// snippetPattern is one snippet of a page, and temporaryPattern the token that is shown once.
	snippetPattern   = regexp.MustCompile(`(?s)<h3 id="([a-z]+)">.*?<code>(.*?)</code>`)
	temporaryPattern = regexp.MustCompile(`(?s)<code id="temporary-token">(.*?)</code>.*?<code>(.*?)</code>`)
)

// reader is a person with a page of a registry before them, and a terminal beside it.
type reader struct {
	*world
	registry *v1alpha1.HelmRegistry
	line     *wire
	// helm is a program's path, folder is where the terminal is, and environment is that of the terminal.
	helm, folder string
	environment  []string
}

// reader makes one whose terminal has helm, kubectl, and a token in $TOKEN.
func (w *world) reader(r *v1alpha1.HelmRegistry, line *wire, helm, token string) *reader {
	w.Helper()
	x := &reader{world: w, registry: r, line: line, helm: helm, folder: w.TempDir()}
	for name, program := range map[string]string{"helm": helm, "kubectl": w.kubectl} {
		w.must(os.Symlink(program, filepath.Join(x.folder, name)), "placing a program")
	}
	x.environment = []string{
		"PATH=" + x.folder + ":" + os.Getenv("PATH"), "HOME=" + x.folder, "KUBECONFIG=" + kubeconfig(w.T), "HELM_NAMESPACE=" + w.namespace, "TOKEN=" + token,
		"HELM_CONFIG_HOME=" + x.folder + "/config", "HELM_CACHE_HOME=" + x.folder + "/cache", "HELM_DATA_HOME=" + x.folder + "/data", "DOCKER_CONFIG=" + x.folder + "/docker",
	}
	return x
}

// snippets are those of a page, as they are copied.
func (x *reader) snippets(page string) map[string]string {
	x.Helper()
	a, err := x.line.send(x.line.service, http.MethodGet, x.line.page(page), nil)
	if err != nil || a.status != http.StatusOK {
		x.Fatalf("the page %s is answered %d %v", page, a.status, err)
	}
	all := map[string]string{}
	for _, m := range snippetPattern.FindAllStringSubmatch(string(a.body), -1) {
		all[m[1]] = html.UnescapeString(m[2])
	}
	return all
}

// paste runs what was copied, with words replaced, as they are meant to be.
func (x *reader) paste(what string, replace ...string) string {
	x.Helper()
	if what == "" {
		x.Fatalf("there is no such snippet on the page")
	}
	line := strings.NewReplacer(replace...).Replace(what)
	out, err := x.shell(line)
	if err != nil {
		x.Errorf("%s\n%v\n%s", line, err, out)
	}
	return out
}

// shell runs a line in the terminal. Its environment is not that of what leads to the cluster's network.
func (x *reader) shell(line string) (string, error) {
	x.Helper()
	return x.run(nil, "", slices.Concat([]string{"env"}, x.environment, []string{"bash", "-ec", "cd '" + x.folder + "'\n" + line})...)
}

// file is a file in the terminal's folder. It is moved away, so that the next command has to write it again.
func (x *reader) file(pattern string) []byte {
	x.Helper()
	files, err := filepath.Glob(filepath.Join(x.folder, pattern))
	if err != nil || len(files) != 1 {
		x.Fatalf("there is no single %s, but %q (%v)", pattern, files, err)
	}
	content := read(x.T, files[0])
	x.must(os.Remove(files[0]), "removing a file")
	return content
}

// If this fails, a line that the pages show does not do what they say it does, and people copy it.
func TestSnippetsWork(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"curl", "jq", "tar"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("the lines that the pages show cannot be tried without %s: %v", program, err)
		}
	}
	foreignKinds(t)
	for _, visibility := range []v1alpha1.Visibility{v1alpha1.VisibilityPrivate, v1alpha1.VisibilityPublic} {
		t.Run(string(visibility), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			r := w.registry("charts", func(r *v1alpha1.HelmRegistry) { r.Spec.Visibility = visibility })
			_, password := w.token("charts", "ci", readWrite)
			line := w.wire(r, password)
			account := w.serviceAccount("publisher")
			w.policy("charts", account.Name, readWrite)
			w.kubectlWait("Ready", "oidcpolicy/"+account.Name)
			token := w.serviceToken(r, account)
			for i, name := range []string{"helm-v3", "helm-v4"} {
				version := fmt.Sprintf("1.%d.0", i)
				writer := w.reader(r, line, tool(t, name), password)
				archive := writer.publishes(version)
				user := w.reader(r, line, writer.helm, password)
				user.installs(version, archive)
				user.deploys(version, archive)
				writer.publishesFromCI(version, token)
			}
			w.publishesFromPods(r, line)
		})
	}
}

// foreignKinds makes the API server know what Flux and Argo CD are told, and the namespace that is shown for Argo CD, until the
// test ends.
func foreignKinds(t *testing.T) {
	t.Helper()
	folder, kubectl := filepath.Join(t.TempDir(), "crds"), tool(t, "kubectl")
	if out, err := exec.Command(filepath.Join(root(t), "hack/crds/write"), folder).CombinedOutput(); err != nil {
		t.Fatalf("hack/crds/write: %v\n%s", err, out)
	}
	run := func(arguments ...string) {
		t.Helper()
		if out, err := exec.Command(kubectl, append([]string{"--kubeconfig", kubeconfig(t)}, arguments...)...).CombinedOutput(); err != nil {
			t.Errorf("kubectl %s: %v\n%s", strings.Join(arguments, " "), err, out)
		}
	}
	run("apply", "--server-side", "-f", folder)
	run("wait", "--for=condition=Established", "-f", folder, "--timeout="+patience.String())
	run("create", "namespace", "argocd")
	t.Cleanup(func() {
		run("delete", "namespace", "argocd", "--wait=false")
		run("delete", "--wait=false", "-f", folder)
	})
}

// publishes pushes a chart as the page says it is done, with the token that one has, with one that the page makes, and
// with curl. It returns the archive.
func (x *reader) publishes(version string) []byte {
	x.Helper()
	h := x.world.helm(x.helm, "charts")
	place := func(version string) []byte {
		x.Helper()
		content := read(x.T, h.chart("shop", version, version, x.registry.Status.Image))
		x.must(os.WriteFile(filepath.Join(x.folder, "shop-"+version+".tgz"), content, 0o600), "placing a chart")
		return content
	}
	archive := place(version)
	publish := x.snippets("/publish")
	x.paste(publish["login"])
	x.paste(publish["push"], "CHART-VERSION", "shop-"+version)

	place(version + "-curl")
	x.paste(publish["curl"], "CHART-VERSION", "shop-"+version+"-curl")
	h.eventuallyThere(x, "shop", version+"-curl")

	a, err := x.line.post(x.line.page("/publish"), url.Values{})
	shown := temporaryPattern.FindStringSubmatch(string(a.body))
	if err != nil || a.status != http.StatusOK || shown == nil {
		x.Fatalf("asking for a temporary token is answered %d %v", a.status, err)
	}
	place(version + "-temporary")
	other := x.reader(x.registry, x.line, x.helm, "")
	x.must(os.Rename(filepath.Join(x.folder, "shop-"+version+"-temporary.tgz"), filepath.Join(other.folder, "shop-"+version+"-temporary.tgz")), "moving a chart")
	if login := html.UnescapeString(shown[2]); !strings.Contains(login, html.UnescapeString(shown[1])) {
		x.Errorf("the line to log in with the temporary token does not have it")
	} else {
		other.paste(login)
		other.paste(publish["push"], "CHART-VERSION", "shop-"+version+"-temporary")
	}
	return archive
}

// eventuallyThere waits until a version is there.
func (h *helm) eventuallyThere(x *reader, chart, version string) {
	h.Helper()
	h.eventually(chart+" "+version+" to be there", func(context.Context) error {
		a, err := x.line.send(x.line.service, http.MethodHead, x.line.v2(chart)+"/manifests/"+version, nil)
		if err == nil && a.status != http.StatusOK {
			err = fmt.Errorf("it is answered %d", a.status)
		}
		return err
	})
}

// installs uses a chart as its page says it is done: pulled, installed, upgraded, as a dependency, and by its digest.
func (x *reader) installs(version string, archive []byte) {
	x.Helper()
	page := x.snippets("/charts/shop/" + version)
	if x.registry.Spec.Visibility == v1alpha1.VisibilityPublic {
		if page["login"] != "" {
			x.Errorf("the page of a public registry tells to log in")
		}
		x.paste(page["authority"])
	} else {
		x.paste(page["login"])
	}
	x.paste(page["pull"])
	if got := x.file("shop-*.tgz"); !bytes.Equal(got, archive) {
		x.Errorf("%s pulls another chart", page["pull"])
	}
	x.paste(page["digest"])
	if got := x.file("shop*.tgz"); !bytes.Equal(got, archive) {
		x.Errorf("%s pulls another chart", page["digest"])
	}
	if out := x.paste(strings.Replace(page["install"], "helm install", "helm template", 1)); !strings.Contains(out, "kind: Deployment") {
		x.Errorf("the template is\n%s", out)
	}
	x.paste(page["install"])
	x.eventually("what was installed to run", func(ctx context.Context) error {
		var installed appsv1.Deployment
		err := x.Get(ctx, client.ObjectKey{Namespace: x.namespace, Name: "shop"}, &installed)
		if err == nil && installed.Status.ReadyReplicas != 1 {
			err = errors.New("it does not")
		}
		return err
	})
	x.paste(page["upgrade"])
	var releases []struct{ Name, Revision, Status, Chart string }
	if err := json.Unmarshal([]byte(x.paste("helm list --output json")), &releases); err != nil || len(releases) != 1 ||
		releases[0].Revision != "2" || releases[0].Status != "deployed" || releases[0].Chart != "shop-"+version {
		x.Errorf("the releases are %+v (%v)", releases, err)
	}
	x.paste("helm uninstall shop --wait")

	parent := filepath.Join(x.folder, "parent")
	x.must(os.Mkdir(parent, 0o700), "making a folder")
	x.must(os.WriteFile(filepath.Join(parent, "Chart.yaml"), []byte("apiVersion: v2\nname: parent\nversion: 1.0.0\n"+page["dependency"]), 0o600), "writing a chart")
	x.paste("helm dependency update parent --ca-file ca.crt")
	if got := x.file("parent/charts/shop-*.tgz"); !bytes.Equal(got, archive) {
		x.Errorf("the dependency is another chart")
	}
}

// deploys tries what is shown for Flux and Argo CD: the API server takes it, by the CRDs that these have, and what it points
// to is the chart.
func (x *reader) deploys(version string, archive []byte) {
	x.Helper()
	page := x.snippets("/charts/shop/" + version)
	for name, namespace := range map[string]string{"flux": x.namespace, "argocd": "argocd"} {
		x.must(os.WriteFile(filepath.Join(x.folder, name+".yaml"), []byte(page[name]), 0o600), "writing what is shown")
		x.paste("kubectl -n " + namespace + " create --dry-run=server --validate=strict -f " + name + ".yaml")
		// Else a field that there is not would be taken, too.
		if _, err := x.shell("sed 's/^spec:/spec:\\n  nothing: true/' " + name + ".yaml | kubectl -n " + namespace + " create --dry-run=server --validate=strict -f -"); err == nil {
			x.Errorf("the API server takes a field that there is not")
		}
	}

	first, _, _ := strings.Cut(page["flux"], "---\n")
	var source struct {
		Spec struct {
			URL           string
			Ref           struct{ Tag, Digest string }
			LayerSelector struct{ MediaType string }
		}
	}
	x.must(yaml.Unmarshal([]byte(first), &source), "reading what is shown for Flux")
	// Flux asks for the tag, and takes the layer that is selected.
	chart, found := strings.CutPrefix(source.Spec.URL, x.registry.Status.OCIURL+"/")
	a, err := x.line.send(x.line.service, http.MethodGet, x.line.v2(chart)+"/manifests/"+source.Spec.Ref.Tag, nil, "Accept", manifestType)
	var manifest struct {
		Layers []struct{ MediaType, Digest string }
	}
	if err := errors.Join(err, json.Unmarshal(a.body, &manifest)); err != nil || !found || len(manifest.Layers) == 0 ||
		manifest.Layers[0].MediaType != source.Spec.LayerSelector.MediaType || manifest.Layers[0].Digest != digestOf(archive) {
		x.Errorf("Flux finds %+v at %+v, and not %s (%v)", manifest, source, digestOf(archive), err)
	}

	var application struct {
		Spec struct {
			Source struct{ RepoURL, Chart, TargetRevision string }
		}
	}
	x.must(yaml.Unmarshal([]byte(page["argocd"]), &application), "reading what is shown for Argo CD")
	// Argo CD calls helm like this.
	s := application.Spec.Source
	x.paste(fmt.Sprintf("helm pull oci://%s/%s --version %s --ca-file ca.crt", s.RepoURL, s.Chart, s.TargetRevision))
	if got := x.file("shop-*.tgz"); !bytes.Equal(got, archive) {
		x.Errorf("Argo CD gets another chart")
	}
}

// publishesFromCI runs what the jobs that the page shows run, each in a new folder with a chart in it and no login. What a
// system of CI does is done here: it gives the job its token, which is that of a service account, and the authority.
func (x *reader) publishesFromCI(version, token string) {
	x.Helper()
	audience, ca := x.registry.Status.URL, string(read(x.T, x.caFile(x.registry.Name)))
	github := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer of-the-job" || r.URL.Query().Get("audience") != audience {
			http.Error(w, "GitHub would refuse this", http.StatusBadRequest)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"value": token})
	}))
	x.Cleanup(github.Close)
	publish := x.snippets("/publish")
	for name, job := range map[string]struct {
		environment []string
		// program is one of the system's own, and answers what it prints when it is called with these arguments.
		program string
		answers map[string]string
	}{
		"github":    {environment: []string{"VARS_CHARTS_CA=" + ca, "ACTIONS_ID_TOKEN_REQUEST_TOKEN=of-the-job", "ACTIONS_ID_TOKEN_REQUEST_URL=" + github.URL + "/?api-version=2.0"}},
		"gitlab":    {environment: []string{"CHARTS_CA=" + ca, "CHARTS_TOKEN=" + token}},
		"buildkite": {program: "buildkite-agent", answers: map[string]string{"oidc request-token --audience " + audience + " --lifetime 300": token, "secret get CHARTS_CA": ca}},
		"circleci":  {environment: []string{"CHARTS_CA=" + base64.StdEncoding.EncodeToString([]byte(ca))}, program: "circleci", answers: map[string]string{`run oidc get --claims {"aud": "` + audience + `"}`: token}},
	} {
		runner := x.world.reader(x.registry, x.line, x.helm, "")
		runner.environment = append(runner.environment, job.environment...)
		if job.program != "" {
			stub := "#!/bin/sh\ncase \"$*\" in\n"
			for arguments, answer := range job.answers {
				stub += "'" + arguments + "') printf '%s\\n' '" + answer + "' ;;\n"
			}
			stub += "*) echo \"$0 is not called like this: $*\" >&2; exit 1 ;;\nesac\n"
			x.must(os.WriteFile(filepath.Join(runner.folder, job.program), []byte(stub), 0o700), "writing a program of "+name)
		}
		pushed := version + "-" + name
		h := x.world.helm(x.helm, x.registry.Name)
		runner.paste("tar -xzf " + h.chart("shop", pushed, pushed, x.registry.Status.Image))
		script := strings.NewReplacer("./CHART", "./shop", "CHART-*", "shop-*").Replace(script(x.T, publish[name]))
		x.must(os.WriteFile(filepath.Join(runner.folder, "job.sh"), []byte(script), 0o600), "writing a job")
		if out, err := runner.shell("sh -e job.sh"); err != nil {
			x.Errorf("the job for %s does not push: %v\n%s\n%s", name, err, script, out)
			continue
		}
		h.eventuallyThere(x, "shop", pushed)
	}
}

// script is what a job that is shown runs. Variables of GitHub's are those of the environment, behind VARS_.
func script(t *testing.T, shown string) string {
	t.Helper()
	var job struct {
		Jobs    struct{ Release struct{ Steps []any } } // GitHub, CircleCI
		Release struct{ Script []string }               // GitLab
		Steps   []struct{ Command string }              // Buildkite
	}
	if err := yaml.Unmarshal([]byte(shown), &job); err != nil {
		t.Fatalf("reading a job: %v\n%s", err, shown)
	}
	lines := job.Release.Script
	for _, s := range job.Steps {
		lines = append(lines, s.Command)
	}
	for _, s := range job.Jobs.Release.Steps {
		step, _ := s.(map[string]any)
		environment, _ := step["env"].(map[string]any)
		for name, value := range environment {
			variable := strings.TrimSuffix(strings.TrimPrefix(fmt.Sprint(value), "${{ vars."), " }}")
			lines = append(lines, fmt.Sprintf(`export %s="$VARS_%s"`, name, variable))
		}
		if run, ok := step["run"].(string); ok {
			lines = append(lines, run)
		}
	}
	if len(lines) == 0 {
		t.Fatalf("this job runs nothing:\n%s", shown)
	}
	return strings.Join(lines, "\n")
}

// publishesFromPods runs the pod that the page shows, with each helm.
func (w *world) publishesFromPods(r *v1alpha1.HelmRegistry, line *wire) {
	w.Helper()
	x := w.reader(r, line, tool(w.T, "helm-v4"), "")
	shown := x.snippets("/publish")["cluster"]
	for i, helm := range []string{"helm-v3", "helm-v4"} {
		archive := w.helm(x.helm, "charts").chart("shop", fmt.Sprintf("2.%d.0", i), "x", r.Status.Image)
		name := "from-" + helm
		w.must(w.Create(w.Context(), &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name}, BinaryData: map[string][]byte{filepath.Base(archive): read(w.T, archive)},
		}), "creating the chart's ConfigMap")
		pod := &corev1.Pod{}
		w.must(yaml.UnmarshalStrict([]byte(strings.ReplaceAll(shown, "CHART-VERSION", strings.TrimSuffix(filepath.Base(archive), ".tgz"))), pod), "reading the pod that is shown")
		// What is the reader's own: an image, a chart, and what the namespace asks of pods.
		no, yes, user := false, true, int64(65532)
		pod.ObjectMeta = metav1.ObjectMeta{Namespace: w.namespace, Name: name}
		pod.Spec.RestartPolicy, pod.Spec.AutomountServiceAccountToken = corev1.RestartPolicyNever, &no
		pod.Spec.SecurityContext = &corev1.PodSecurityContext{
			RunAsNonRoot: &yes, RunAsUser: &user, FSGroup: &user, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		}
		c := &pod.Spec.Containers[0]
		c.Image, c.ImagePullPolicy, c.WorkingDir = "localhost/publisher:test", corev1.PullNever, "/chart"
		c.Env = []corev1.EnvVar{{Name: "HELM", Value: "/" + helm}, {Name: "PATH", Value: "/"}, {Name: "HOME", Value: "/tmp"}}
		c.SecurityContext = &corev1.SecurityContext{AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "chart", MountPath: "/chart"}, corev1.VolumeMount{Name: "tmp", MountPath: "/tmp"})
		pod.Spec.Volumes = append(pod.Spec.Volumes,
			corev1.Volume{Name: "chart", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}}}},
			corev1.Volume{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		)
		if out, ok := w.runPod(pod); !ok {
			w.Errorf("the pod that is shown does not push with %s:\n%s\n%s", helm, shown, out)
			continue
		}
		a, err := line.send(line.service, http.MethodGet, line.v2("shop")+"/manifests/"+fmt.Sprintf("2.%d.0", i), nil, "Accept", manifestType)
		if err != nil || !strings.Contains(string(a.body), digestOf(read(w.T, archive))) {
			w.Errorf("what the pod pushed is answered %d %s %v", a.status, a.body, err)
		}
	}
}
