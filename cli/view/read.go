package view

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weftnet/weftnet/crds/v1alpha1"
)

// Labels of the chart's Pods.
const (
	nameLabel      = "app.kubernetes.io/name"
	componentLabel = "app.kubernetes.io/component"
	metricsPort    = "metrics"
)

// Source is where a Mesh is read from.
type Source struct {
	Client client.Reader
	// Typed asks the agents for their metrics through the API server.
	Typed kubernetes.Interface
	// Patience is how long one agent may take to answer.
	Patience time.Duration
}

// Read gathers a Mesh. That a single agent does not answer is noted in the Mesh; everything else
// that cannot be read is an error.
func (s Source) Read(ctx context.Context) (*Mesh, error) {
	m := &Mesh{Agents: map[string]Agent{}, Links: map[string]map[string]Link{}, Unasked: map[string]Unasked{}}
	agents, err := s.readObjects(ctx, m)
	if err != nil {
		return nil, err
	}
	m.sort()
	s.readLinks(ctx, m, agents)
	return m, nil
}

// readObjects reads the API's objects and returns the agents' Pods.
func (s Source) readObjects(ctx context.Context, m *Mesh) ([]corev1.Pod, error) {
	var nodes corev1.NodeList
	var meshNodes v1alpha1.MeshNodeList
	var pools v1alpha1.IPPoolList
	var services networkingv1.ServiceCIDRList
	var pods corev1.PodList
	var config v1alpha1.MeshConfig
	for _, list := range []struct {
		did  string
		into client.ObjectList
		only []client.ListOption
	}{
		{"list Nodes", &nodes, nil},
		{"list MeshNodes", &meshNodes, nil},
		{"list IPPools", &pools, nil},
		{"list ServiceCIDRs", &services, nil},
		{"list the Pods of Weftnet", &pods, []client.ListOption{client.MatchingLabels{nameLabel: "weftnet"}}},
	} {
		// The first that fails ends it: of an API server that is away there is nothing more to learn.
		if err := s.Client.List(ctx, list.into, list.only...); err != nil {
			return nil, wrap(list.did, err)
		}
	}
	switch err := s.Client.Get(ctx, client.ObjectKey{Name: v1alpha1.MeshConfigName}, &config); {
	case err == nil:
		m.Config = &config
	case !apierrors.IsNotFound(err):
		return nil, fmt.Errorf("get the MeshConfig: %w", err)
	}
	m.Nodes, m.MeshNodes, m.Pools = nodes.Items, meshNodes.Items, pools.Items
	for i := range services.Items {
		m.ServiceCIDRs = append(m.ServiceCIDRs, services.Items[i].Spec.CIDRs...)
	}
	return m.takePods(pods.Items), nil
}

// takePods notes what Kubernetes says of the chart's Pods, and returns the agents to ask. One that is being
// removed has its successor beside it, and only that one counts; alone it still is the node's agent.
func (m *Mesh) takePods(pods []corev1.Pod) (agents []corev1.Pod) {
	for i := range pods {
		pod := &pods[i]
		switch pod.Labels[componentLabel] {
		case "agent":
			_, has := m.Agents[pod.Spec.NodeName]
			leaving := pod.DeletionTimestamp != nil
			if !has || !leaving {
				m.Agents[pod.Spec.NodeName] = agentOf(pod)
			}
			if !leaving {
				agents = append(agents, *pod)
			}
		case "operator":
			m.Operators = append(m.Operators, agentOf(pod))
		}
	}
	return agents
}

// wrap adds what was tried; a cluster without Weftnet's kinds gets an answer it can use, and so does who cannot
// reach the API server.
func wrap(did string, err error) error {
	var request *url.Error
	switch {
	case meta.IsNoMatchError(err):
		return fmt.Errorf("%s: this cluster does not know the kind; is Weftnet's chart installed? %w", did, err)
	case errors.As(err, &request):
		return fmt.Errorf("the API server does not answer; is it running, and does the kubeconfig name the right one? Traffic goes on without it: %w", request)
	default:
		return fmt.Errorf("%s: %w", did, err)
	}
}
