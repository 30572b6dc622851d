package view

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
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
	m := &Mesh{Agents: map[string]Agent{}, Links: map[string]map[string]Link{}, Unasked: map[string]string{}}
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
	err := errors.Join(
		wrap("list Nodes", s.Client.List(ctx, &nodes)),
		wrap("list MeshNodes", s.Client.List(ctx, &meshNodes)),
		wrap("list IPPools", s.Client.List(ctx, &pools)),
		wrap("list ServiceCIDRs", s.Client.List(ctx, &services)),
		wrap("list the Pods of Weftnet", s.Client.List(ctx, &pods, client.MatchingLabels{nameLabel: "weftnet"})),
	)
	if err != nil {
		return nil, err
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
	var agents []corev1.Pod
	for i := range pods.Items {
		pod := &pods.Items[i]
		switch pod.Labels[componentLabel] {
		case "agent":
			m.Agents[pod.Spec.NodeName] = agentOf(pod)
			agents = append(agents, *pod)
		case "operator":
			m.Operators = append(m.Operators, agentOf(pod))
		}
	}
	return agents, nil
}

// wrap adds what was tried; a cluster without Weftnet's kinds gets an answer it can use.
func wrap(did string, err error) error {
	switch {
	case err == nil:
		return nil
	case meta.IsNoMatchError(err):
		return fmt.Errorf("%s: this cluster does not know the kind; is Weftnet's chart installed? %w", did, err)
	default:
		return fmt.Errorf("%s: %w", did, err)
	}
}

// readLinks asks every agent at the same time.
func (s Source) readLinks(ctx context.Context, m *Mesh, agents []corev1.Pod) {
	var lock sync.Mutex
	var all sync.WaitGroup
	for i := range agents {
		pod := &agents[i]
		all.Go(func() {
			links, err := s.ask(ctx, pod)
			lock.Lock()
			defer lock.Unlock()
			if err != nil {
				m.Unasked[pod.Spec.NodeName] = err.Error()
				return
			}
			m.Links[pod.Spec.NodeName] = links
		})
	}
	all.Wait()
}

func (s Source) ask(ctx context.Context, pod *corev1.Pod) (map[string]Link, error) {
	ctx, cancel := context.WithTimeout(ctx, s.Patience)
	defer cancel()
	port, ok := portOf(pod)
	if !ok {
		return nil, fmt.Errorf("ask the agent: Pod %s has no port named %s", pod.Name, metricsPort)
	}
	text, err := s.Typed.CoreV1().Pods(pod.Namespace).ProxyGet("http", pod.Name, strconv.Itoa(port), "metrics", nil).DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the agent: %w", err)
	}
	return parseLinks(text)
}

func portOf(pod *corev1.Pod) (int, bool) {
	for _, c := range pod.Spec.Containers {
		for _, p := range c.Ports {
			if p.Name == metricsPort {
				return int(p.ContainerPort), true
			}
		}
	}
	return 0, false
}
