//go:build apiserver

package chart

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weftnet/weftnet/test/apiserver"
)

const (
	root      = "../.."
	chartDir  = root + "/helm/weftnet"
	namespace = "weftnet-system"
	release   = "weftnet"
)

// cluster is an API server with the chart's helm beside it.
type cluster struct {
	t          *testing.T
	server     *apiserver.Server
	admin      client.Client
	kubeconfig string
}

// start brings up an API server that knows nothing of Weftnet yet: the chart shall bring the CRDs.
func start(t *testing.T) *cluster {
	t.Helper()
	server := apiserver.StartBare(t)
	scheme := apiserver.Scheme(t)
	if err := apiextensionsv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	admin, err := client.New(server.Config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{t: t, server: server, admin: admin, kubeconfig: writeKubeconfig(t, server.Config)}
}

// with is the same cluster seen from a subtest.
func (c *cluster) with(t *testing.T) *cluster {
	sub := *c
	sub.t = t
	return &sub
}

func (c *cluster) crds() []apiextensionsv1.CustomResourceDefinition {
	c.t.Helper()
	var list apiextensionsv1.CustomResourceDefinitionList
	if err := c.admin.List(c.t.Context(), &list); err != nil {
		c.t.Fatal(err)
	}
	return list.Items
}

// eventually polls until the condition holds.
func (c *cluster) eventually(what string, holds wait.ConditionWithContextFunc) {
	c.t.Helper()
	if err := wait.PollUntilContextTimeout(c.t.Context(), 100*time.Millisecond, 2*time.Minute, true, holds); err != nil {
		c.t.Fatalf("wait for %s: %v", what, err)
	}
}

// helm runs helm and returns all that it printed.
func (c *cluster) helm(args ...string) (string, error) {
	c.t.Helper()
	return runHelm(c.t, append(args, "--kubeconfig", c.kubeconfig)...)
}

func (c *cluster) mustHelm(args ...string) string {
	c.t.Helper()
	out, err := c.helm(args...)
	if err != nil {
		c.t.Fatalf("helm %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// install installs or upgrades the chart with the testbed's values.
func (c *cluster) install(extra ...string) {
	c.t.Helper()
	c.mustHelm(append([]string{"upgrade", "--install", release, chartDir, "-n", namespace, "--create-namespace", "-f", chartDir + "/ci/testbed.yaml"}, extra...)...)
}

func runHelm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	binary, err := filepath.Abs(root + "/.testbed/bin/helm")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(binary); err != nil {
		t.Fatalf("this test needs helm: run `make testbed-build`: %v", err)
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+t.TempDir(), "HELM_CONFIG_HOME="+t.TempDir(), "HELM_DATA_HOME="+t.TempDir())
	err = cmd.Run()
	return out.String(), err
}

func writeKubeconfig(t *testing.T, config *rest.Config) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{"c": {Server: config.Host, CertificateAuthorityData: config.CAData}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{"u": {
			ClientCertificateData: config.CertData, ClientKeyData: config.KeyData, Token: config.BearerToken,
		}},
		Contexts:       map[string]*clientcmdapi.Context{"x": {Cluster: "c", AuthInfo: "u"}},
		CurrentContext: "x",
	}, path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// gone says whether an object is no longer there.
func (c *cluster) gone(object client.Object) bool {
	return apierrors.IsNotFound(c.admin.Get(c.t.Context(), client.ObjectKeyFromObject(object), object))
}
