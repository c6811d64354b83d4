package integration

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// person makes somebody who may create, get and delete RegistryTokens in the test's namespace and nothing else, and returns
// the file by which kubectl and its plugins act for them.
func (c *cluster) person(name string) string {
	c.t.Helper()
	at := metav1.ObjectMeta{Namespace: c.namespace, Name: name}
	account := &corev1.ServiceAccount{ObjectMeta: at}
	c.create(account)
	c.create(&rbacv1.Role{ObjectMeta: at, Rules: []rbacv1.PolicyRule{{
		APIGroups: []string{v1alpha1.GroupVersion.Group}, Resources: []string{"registrytokens"}, Verbs: []string{"create", "get", "delete"}}}})
	c.create(&rbacv1.RoleBinding{ObjectMeta: at,
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: c.namespace, Name: name}}})
	request := &authenticationv1.TokenRequest{}
	if err := env.Client.SubResource("token").Create(c.t.Context(), account, request); err != nil {
		c.t.Fatal(err)
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["x"] = &clientcmdapi.Cluster{Server: env.Admin.Host, CertificateAuthorityData: env.Admin.CAData}
	config.AuthInfos["x"] = &clientcmdapi.AuthInfo{Token: request.Status.Token}
	config.Contexts["x"] = &clientcmdapi.Context{Cluster: "x", AuthInfo: "x", Namespace: c.namespace}
	config.CurrentContext = "x"
	file := filepath.Join(c.t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		c.t.Fatal(err)
	}
	return file
}

// Whoever may make RegistryTokens, and read no Secret, gets a token that works at once, whose secret the cluster never had.
func TestPersonalToken(t *testing.T) {
	plugin := filepath.Join(t.TempDir(), "kubectl-chartroom")
	if out, err := exec.Command("go", "build", "-o", plugin, "../../cmd/kubectl-chartroom").CombinedOutput(); err != nil {
		t.Fatalf("building the plugin: %v\n%s", err, out)
	}
	c := newCluster(t)
	c.create(c.registry(nil))
	pod := c.startPod("charts-1")
	kubeconfig := c.person("ada")
	run := func(arguments ...string) (string, string, error) {
		command := exec.CommandContext(t.Context(), plugin, append(arguments, "--kubeconfig", kubeconfig)...)
		var stdout, stderr bytes.Buffer
		command.Stdout, command.Stderr = &stdout, &stderr
		err := command.Run()
		return stdout.String(), stderr.String(), err
	}
	out, notes, err := run("token", "charts", "--ttl=10m", "--name=ada")
	if err != nil {
		t.Fatalf("%v: %s", err, notes)
	}
	secret := &corev1.Secret{Data: map[string][]byte{"password": []byte(strings.TrimSuffix(out, "\n"))}}
	if !pod.admits(secret, wire.ReadPackages) || pod.admits(secret, wire.WritePackages) {
		t.Error("what was printed is not admitted for reading alone")
	}
	minted, err := access.ParseToken(string(secret.Data["password"]))
	if err != nil {
		t.Fatal(err)
	}
	token := newToken(c.namespace, "ada", nil)
	c.get(token)
	if token.Spec.SecretSHA256 != minted.SHA256() || token.Status.Prefix != "crt_"+minted.ID() || token.Status.SecretRef != nil || token.Status.ExpiresAt == nil {
		t.Errorf("the object is not that of the token: %+v", token)
	}
	if c.exists(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: "ada"}}) {
		t.Error("a Secret was published")
	}
	c.delete(token)
	c.eventually("the token is gone", func() bool { return !c.exists(token) })
	if pod.admits(secret, wire.ReadPackages) {
		t.Error("it is admitted after it was deleted")
	}

	// What comes to nothing leaves nothing behind.
	if out, notes, err = run("token", "nowhere", "--timeout=2s"); err == nil || out != "" || !strings.Contains(notes, "not in force after 2s. There is no HelmRegistry") {
		t.Errorf("for a registry that does not exist: %q, %q, %v", out, notes, err)
	}
	list := &v1alpha1.RegistryTokenList{}
	c.eventually("nothing is left", func() bool {
		if err := env.Client.List(t.Context(), list); err != nil {
			t.Fatal(err)
		}
		for i := range list.Items {
			if list.Items[i].Namespace == c.namespace {
				return false
			}
		}
		return true
	})
}
