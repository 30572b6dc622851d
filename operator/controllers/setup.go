package controllers

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weftnet/weftnet/crds/v1alpha1"
)

// Name by which the operator writes, reports and leads.
const Name = "weftnet-operator"

// writers is how many writes are under way at once when many nodes come together.
const writers = 16

// writeTimeout is how long the operator waits for a write.
const writeTimeout = 15 * time.Second

// LeastCooldown is the shortest that is safe, see package plan: longer than the operator waits for a
// write (15 s) and the API server then still works on it (60 s, its --request-timeout).
const LeastCooldown = 90 * time.Second

// Options of the controllers.
type Options struct {
	// Cooldown is how long a block is kept back after its node went, LeastCooldown or more. (Tests
	// on one machine may go below.)
	Cooldown time.Duration
	// Suffix keeps the names of two sets of controllers in one process apart, in tests.
	Suffix string
	// Policies says of each network policy whether it can be honoured.
	Policies bool
}

// Scheme knows every type that the operator handles.
func Scheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme, policyv1alpha2.Install} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("build the scheme: %w", err)
		}
	}
	return scheme, nil
}

// Add puts the controllers into the manager.
func Add(mgr ctrl.Manager, options Options) error {
	events := newReporter(mgr.GetEventRecorder(Name))
	allocation := &allocationReconciler{
		client:   mgr.GetClient(),
		live:     mgr.GetAPIReader(),
		events:   events,
		cooldown: options.Cooldown,
		now:      time.Now,
		blocks:   newBlockMemory(),
	}
	if err := allocation.add(mgr, options.Suffix); err != nil {
		return fmt.Errorf("add the allocation controller: %w", err)
	}
	config := &meshConfigReconciler{client: mgr.GetClient(), now: time.Now}
	if err := config.add(mgr, options.Suffix); err != nil {
		return fmt.Errorf("add the MeshConfig controller: %w", err)
	}
	if options.Policies {
		return addPolicies(mgr, options.Suffix)
	}
	return nil
}
