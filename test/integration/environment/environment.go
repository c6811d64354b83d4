// Package environment starts a real API server (kube-apiserver and etcd, no nodes and no other controllers) for tests,
// with the project's CRDs and roles in it and its audit log on.
package environment

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
)

// OperatorNamespace is the namespace that the operator has to itself.
const OperatorNamespace = "chartroom-system"

// OperatorUser is the user name that the API server knows the operator by.
const OperatorUser = "system:serviceaccount:" + OperatorNamespace + ":chartroom-operator"

// Environment is a running API server.
type Environment struct {
	// Admin may do everything.
	Admin *rest.Config
	// Operator has the operator's own identity and rights, as config/rbac gives them.
	Operator *rest.Config
	// Scheme knows Kubernetes' own kinds and the project's.
	Scheme *kruntime.Scheme
	// Client is Admin's, without a cache.
	Client client.Client

	server *envtest.Environment
	folder string
}

const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  verbs: [create, update, patch, delete, deletecollection]
- level: None
`

// Start starts the API server. The programs come from KUBEBUILDER_ASSETS or, where that is not set, from
// hack/cluster/assets. Whoever calls it calls Stop too.
func Start() (*Environment, error) {
	folder, err := os.MkdirTemp("", "chartroom-environment-")
	if err != nil {
		return nil, err
	}
	e := &Environment{folder: folder, Scheme: kruntime.NewScheme()}
	if err := errors.Join(clientgoscheme.AddToScheme(e.Scheme), v1alpha1.AddToScheme(e.Scheme)); err != nil {
		return nil, err
	}
	if err := e.start(); err != nil {
		return nil, errors.Join(err, e.Stop())
	}
	return e, nil
}

func (e *Environment) start() error {
	assets, err := assetsFolder()
	if err != nil {
		return err
	}
	policy := filepath.Join(e.folder, "audit-policy.yaml")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		return err
	}
	server := &envtest.Environment{
		BinaryAssetsDirectory: assets,
		CRDDirectoryPaths:     []string{filepath.Join(root(), "config", "crd", "bases")},
		ErrorIfCRDPathMissing: true,
	}
	server.ControlPlane.GetAPIServer().Configure().
		Append("audit-policy-file", policy).
		Append("audit-log-path", e.auditLog())
	if e.Admin, err = server.Start(); err != nil {
		return fmt.Errorf("starting the API server from %s: %w", assets, err)
	}
	e.server = server
	e.Admin.QPS = -1
	if e.Client, err = client.New(e.Admin, client.Options{Scheme: e.Scheme}); err != nil {
		return err
	}
	user, err := server.AddUser(envtest.User{
		Name:   OperatorUser,
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + OperatorNamespace, "system:authenticated"},
	}, nil)
	if err != nil {
		return fmt.Errorf("making the operator's user: %w", err)
	}
	e.Operator = user.Config()
	e.Operator.QPS = -1
	return e.installRoles(context.Background())
}

// installRoles applies what config/rbac holds, in its namespace.
func (e *Environment) installRoles(ctx context.Context) error {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: OperatorNamespace}}
	if err := e.Client.Create(ctx, namespace); err != nil {
		return err
	}
	folder := filepath.Join(root(), "config", "rbac")
	return filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".yaml" || entry.Name() == "kustomization.yaml" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, document := range bytes.Split(text, []byte("\n---\n")) {
			object := &unstructured.Unstructured{}
			if err := yaml.Unmarshal(document, &object.Object); err != nil {
				return fmt.Errorf("reading %s: %w", path, err)
			}
			if len(object.Object) == 0 {
				continue
			}
			if !strings.HasPrefix(object.GetKind(), "Cluster") {
				object.SetNamespace(OperatorNamespace)
			}
			if err := e.Client.Create(ctx, object); err != nil && !apierrors.IsAlreadyExists(err) {
				return fmt.Errorf("applying %s: %w", path, err)
			}
		}
		return nil
	})
}

// Stop stops the API server and removes what it left.
func (e *Environment) Stop() error {
	var err error
	if e.server != nil {
		err = e.server.Stop()
	}
	return errors.Join(err, os.RemoveAll(e.folder))
}

// Kubectl runs kubectl as the administrator, in the top of the work tree, and returns what it printed.
func (e *Environment) Kubectl(ctx context.Context, arguments ...string) (string, error) {
	kubeconfig := filepath.Join(e.folder, "kubeconfig")
	if err := os.WriteFile(kubeconfig, e.server.KubeConfig, 0o600); err != nil {
		return "", err
	}
	command := exec.CommandContext(ctx, filepath.Join(e.server.BinaryAssetsDirectory, "kubectl"), append([]string{"--kubeconfig", kubeconfig}, arguments...)...)
	command.Dir = root()
	out, err := command.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("kubectl %s: %w: %s", strings.Join(arguments, " "), err, out)
	}
	return string(out), nil
}

// Call is one mutating call that the API server answered.
type Call struct {
	Verb, Resource, Subresource, Namespace, Name string
	Code                                         int32
}

// OperatorCalls returns the mutating calls made by the operator so far, in order, leases excepted.
func (e *Environment) OperatorCalls() ([]Call, error) {
	text, err := os.ReadFile(e.auditLog())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	// The last line may be half written.
	text = text[:bytes.LastIndexByte(text, '\n')+1]
	var calls []Call
	for line := range bytes.Lines(text) {
		var event struct {
			Verb      string
			User      struct{ Username string }
			ObjectRef struct{ Resource, Subresource, Namespace, Name string }
			Response  struct{ Code int32 } `json:"responseStatus"`
		}
		if err := json.Unmarshal(line, &event); err != nil {
			return nil, fmt.Errorf("reading the audit log: %w", err)
		}
		if ref := event.ObjectRef; event.User.Username == OperatorUser && ref.Resource != "leases" {
			calls = append(calls, Call{event.Verb, ref.Resource, ref.Subresource, ref.Namespace, ref.Name, event.Response.Code})
		}
	}
	return calls, nil
}

func (e *Environment) auditLog() string { return filepath.Join(e.folder, "audit.log") }

func assetsFolder() (string, error) {
	if folder := os.Getenv("KUBEBUILDER_ASSETS"); folder != "" {
		return folder, nil
	}
	script := filepath.Join(root(), "hack", "cluster", "assets")
	command := exec.Command(script)
	command.Stderr = os.Stderr
	out, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("KUBEBUILDER_ASSETS is not set, and %s failed: %w", script, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// root is the top of the work tree.
func root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "..")
}
