package command

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weftnet/weftnet/cli/view"
	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/version"
)

// apiPatience is how long the API server may take for one answer; the lists of some thousand nodes take it a few
// seconds.
const apiPatience = 15 * time.Second

// access says how the user reaches the cluster.
type access struct {
	kubeconfig string
	context    string
}

func (a *access) config() (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.WarnIfAllMissing = false // the error tells it
	rules.ExplicitPath = a.kubeconfig
	overrides := &clientcmd.ConfigOverrides{CurrentContext: a.context}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides).ClientConfig()
	switch {
	case clientcmd.IsEmptyConfig(err): // its own text advises on an environment variable that is not read
		return nil, fmt.Errorf("find the cluster: no kubeconfig names one (looked at %s): set --kubeconfig or $KUBECONFIG", strings.Join(rules.GetLoadingPrecedence(), ", "))
	case err != nil:
		return nil, fmt.Errorf("find the cluster (--kubeconfig, $KUBECONFIG or ~/.kube/config): %w", err)
	}
	config.QPS, config.Burst = 50, 100 // a command of a person, not a controller that shares the server with many
	config.UserAgent = "weft/" + version.Version
	return config, nil
}

// clients makes the two clients that commands use.
func (a *access) clients() (client.Client, kubernetes.Interface, error) {
	config, err := a.config()
	if err != nil {
		return nil, nil, err
	}
	return clientsFor(config)
}

func clientsFor(config *rest.Config) (client.Client, kubernetes.Interface, error) {
	kinds := runtime.NewScheme()
	if err := scheme.AddToScheme(kinds); err != nil {
		return nil, nil, fmt.Errorf("register the kinds of Kubernetes: %w", err)
	}
	if err := errors.Join(v1alpha1.AddToScheme(kinds), policyv1alpha2.Install(kinds)); err != nil {
		return nil, nil, fmt.Errorf("register the kinds of weftnet.io and policy.networking.k8s.io: %w", err)
	}
	objects, err := client.New(config, client.Options{Scheme: kinds})
	if err != nil {
		return nil, nil, fmt.Errorf("make a client: %w", err)
	}
	typed, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("make a client: %w", err)
	}
	return objects, typed, nil
}

// source reads the mesh; an agent that does not answer within the patience is told as unknown.
func (a *access) source(patience time.Duration) (*view.Source, error) {
	config, err := a.config()
	if err != nil {
		return nil, err
	}
	// A look takes few requests and one for each agent, and whoever looks at a sick cluster must not wait: the
	// turns of a rate limiter would count against an agent's patience, and an API server that is cut off takes
	// a connection 30 s to notice, once for each kind.
	config.QPS, config.Timeout = -1, apiPatience
	objects, typed, err := clientsFor(config)
	if err != nil {
		return nil, err
	}
	return &view.Source{Client: objects, Typed: typed, Patience: patience}, nil
}
