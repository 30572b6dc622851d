package source

import (
	"fmt"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/version"
)

// serviceAccountDir is where kubelet puts a Pod's token and the cluster's certificate.
const serviceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount"

// Connection says how to reach the API server.
type Connection struct {
	// Kubeconfig is a file; empty means the Pod's own ServiceAccount.
	Kubeconfig string
	// Server is host:port or a URL, and overrides the kubeconfig's. It must not need the mesh, a
	// Service or the cluster's DNS.
	Server string
}

// REST makes the configuration of a client.
func (c Connection) REST() (*rest.Config, error) {
	if c.Kubeconfig != "" {
		cfg, err := clientcmd.BuildConfigFromFlags(c.Server, c.Kubeconfig)
		switch {
		case clientcmd.IsEmptyConfig(err): // its own text advises on an environment variable that is not read
			return nil, fmt.Errorf("read the kubeconfig %s: it names no cluster: is it a kubeconfig?", c.Kubeconfig)
		case err != nil:
			return nil, fmt.Errorf("read the kubeconfig %s: %w", c.Kubeconfig, err)
		}
		return tuned(cfg), nil
	}
	if c.Server == "" {
		return nil, fmt.Errorf("no API server: set --api-server or --kubeconfig")
	}
	host, _, err := rest.DefaultServerURL(c.Server, "", schema.GroupVersion{}, true)
	if err != nil {
		return nil, fmt.Errorf("read the address of the API server %q: %w", c.Server, err)
	}
	return tuned(&rest.Config{
		Host: host.String(),
		// kubelet replaces the token before it expires; the client reads the file again by itself.
		BearerTokenFile: filepath.Join(serviceAccountDir, "token"),
		TLSClientConfig: rest.TLSClientConfig{CAFile: filepath.Join(serviceAccountDir, "ca.crt")},
	}), nil
}

func tuned(cfg *rest.Config) *rest.Config {
	cfg.UserAgent = "weftnet-agent/" + version.Version
	cfg.QPS, cfg.Burst = 20, 40
	// The lists of a large cluster are tens of MiB once in the life of an agent: to press them together takes
	// the API server, which answers all agents, longer than a network within the cluster takes to carry them.
	cfg.DisableCompression = true
	return cfg
}

type clients struct{ weftnet, core rest.Interface }

// NewClient makes a client for one API group.
func NewClient(cfg *rest.Config, gv schema.GroupVersion) (rest.Interface, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v1alpha1.AddToScheme, corev1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("register types: %w", err)
		}
	}
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	own := rest.CopyConfig(cfg)
	own.GroupVersion = &gv
	own.APIPath = "/apis"
	if gv.Group == "" {
		own.APIPath = "/api"
	}
	own.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := rest.RESTClientFor(own)
	if err != nil {
		return nil, fmt.Errorf("make a client for %s: %w", gv, err)
	}
	return client, nil
}

func newClients(cfg *rest.Config) (clients, error) {
	weftnet, err := NewClient(cfg, v1alpha1.GroupVersion)
	if err != nil {
		return clients{}, err
	}
	core, err := NewClient(cfg, corev1.SchemeGroupVersion)
	return clients{weftnet: weftnet, core: core}, err
}
