// Package apiserver runs a real etcd and kube-apiserver on loopback for a test, with Weftnet's
// resources installed. It is for what no fake can show: admission, RBAC, and what happens when
// two clients write at once. The binaries are those of the testbed; WEFTNET_BIN names another
// folder.
package apiserver

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/weftnet/weftnet/crds/v1alpha1"
)

// Ranges of the Services, the same as on the testbed.
const (
	ServiceCIDRv4 = "10.96.0.0/16"
	ServiceCIDRv6 = "fd00:10:96::/112"
)

// timeout of start and stop: generous, because the machine may be building meanwhile.
const timeout = 2 * time.Minute

// Server is a running control plane without controllers.
type Server struct {
	// Config is that of a cluster administrator.
	Config *rest.Config

	env *envtest.Environment
}

// Start brings the control plane up and ends it with the test.
func Start(t testing.TB) *Server {
	t.Helper()
	return start(t, "crds")
}

// StartBare brings up a control plane that knows nothing of Weftnet's resources, for who brings them along.
func StartBare(t testing.TB) *Server {
	t.Helper()
	return start(t)
}

// start installs the resources in the given folders of the repository.
func start(t testing.TB, resources ...string) *Server {
	t.Helper()
	root, err := repository()
	if err != nil {
		t.Fatal(err)
	}
	for i := range resources {
		resources[i] = filepath.Join(root, resources[i])
	}
	env := &envtest.Environment{
		CRDDirectoryPaths:        resources,
		ErrorIfCRDPathMissing:    true,
		BinaryAssetsDirectory:    binaries(t, root),
		ControlPlaneStartTimeout: timeout,
		ControlPlaneStopTimeout:  timeout,
	}
	env.ControlPlane.GetAPIServer().Configure().Set("service-cluster-ip-range", ServiceCIDRv4+","+ServiceCIDRv6)
	config, err := env.Start()
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Errorf("stop the control plane: %v", err)
		}
	})
	if err != nil {
		t.Fatalf("start the control plane: %v", err)
	}
	return &Server{Config: config, env: env}
}

// Etcd is the URL of the store behind the API server, without encryption or passwords, for who needs
// more objects than the API server makes in good time.
func (s *Server) Etcd() string { return s.env.ControlPlane.Etcd.URL.String() }

// User gives the configuration of a user who is allowed nothing but what RBAC says.
func (s *Server) User(t testing.TB, name string, groups ...string) *rest.Config {
	t.Helper()
	user, err := s.env.AddUser(envtest.User{Name: name, Groups: groups}, s.Config)
	if err != nil {
		t.Fatalf("add user %s: %v", name, err)
	}
	return user.Config()
}

// Kubeconfig writes the configuration of a user to a file, for programs, and gives its path.
func (s *Server) Kubeconfig(t testing.TB, name string, groups ...string) string {
	t.Helper()
	user, err := s.env.AddUser(envtest.User{Name: name, Groups: groups}, s.Config)
	if err != nil {
		t.Fatalf("add user %s: %v", name, err)
	}
	text, err := user.KubeConfig()
	if err != nil {
		t.Fatalf("write the kubeconfig of %s: %v", name, err)
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Client reads and writes with the given configuration, without a cache.
func Client(t testing.TB, config *rest.Config) client.Client {
	t.Helper()
	c, err := client.New(config, client.Options{Scheme: Scheme(t)})
	if err != nil {
		t.Fatalf("make a client: %v", err)
	}
	return c
}

// Scheme knows Kubernetes' own types and Weftnet's.
func Scheme(t testing.TB) *runtime.Scheme {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	return scheme
}

// binaries finds the folder with etcd and kube-apiserver. Without them the test fails: a proof
// that is skipped proves nothing.
func binaries(t testing.TB, root string) string {
	t.Helper()
	folder := os.Getenv("WEFTNET_BIN")
	if folder == "" {
		folder = filepath.Join(root, ".testbed", "bin")
	}
	for _, name := range []string{"etcd", "kube-apiserver"} {
		if _, err := os.Stat(filepath.Join(folder, name)); err != nil {
			t.Fatalf("this test needs %s in %s: build it with `make testbed`, or set WEFTNET_BIN", name, folder)
		}
	}
	return folder
}

// repository finds the root of the module, upwards from the folder of the test.
func repository() (string, error) {
	folder, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(folder, "go.mod")); err == nil {
			return folder, nil
		}
		parent := filepath.Dir(folder)
		if parent == folder {
			return "", fmt.Errorf("find the repository: no go.mod above the test's folder")
		}
		folder = parent
	}
}
