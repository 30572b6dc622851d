package view

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/net"
)

// atOnce is how many agents are asked at the same time: enough that even many that do not answer cost the
// patience only once or twice, and not more connections than an API server takes from one client.
const atOnce = 250

// readLinks asks every agent.
func (s Source) readLinks(ctx context.Context, m *Mesh, agents []corev1.Pod) {
	var lock sync.Mutex
	var all sync.WaitGroup
	turns := make(chan struct{}, atOnce)
	for i := range agents {
		pod := &agents[i]
		all.Go(func() {
			turns <- struct{}{}
			links, err := s.ask(ctx, pod)
			<-turns
			lock.Lock()
			defer lock.Unlock()
			if err != nil {
				m.Unasked[pod.Spec.NodeName] = unasked(err, s.Patience)
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
		return nil, fmt.Errorf("its Pod has no port named %s", metricsPort)
	}
	// Not ProxyGet, which drops the Status in which the API server says what it met.
	answer := s.Typed.CoreV1().RESTClient().Get().Namespace(pod.Namespace).Resource("pods").SubResource("proxy").
		Name(net.JoinSchemeNamePort("http", pod.Name, strconv.Itoa(port))).Suffix("metrics").Do(ctx)
	if err := answer.Error(); err != nil {
		return nil, fmt.Errorf("ask the agent: %w", err)
	}
	text, err := answer.Raw()
	if err != nil {
		return nil, fmt.Errorf("read the agent's answer: %w", err)
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

// unasked says in a few words why an agent did not tell anything.
func unasked(err error, patience time.Duration) Unasked {
	switch {
	case apierrors.IsForbidden(err):
		return Unasked{Why: "you may not ask the agents (it takes the right to get pods/proxy in their namespace)", Forbidden: true}
	case errors.Is(err, context.DeadlineExceeded) || os.IsTimeout(err) || apierrors.IsTimeout(err):
		return Unasked{Why: fmt.Sprintf("no answer within %s: the agent hangs or is stopped, or the API server does not reach the node", patience)}
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return Unasked{Why: reason(status.Status())}
	}
	return Unasked{Why: err.Error()}
}

// reason is what the API server met on its way to the agent. It puts that into the causes, behind a general
// message, where the answer is no Status.
func reason(s metav1.Status) string {
	if s.Details != nil {
		for _, cause := range s.Details.Causes {
			if cause.Type == metav1.CauseTypeUnexpectedServerResponse && cause.Message != "" && cause.Message != "unknown" {
				return "the API server says: " + strings.TrimSpace(cause.Message)
			}
		}
	}
	return "the API server says: " + s.Message
}
