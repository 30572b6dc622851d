package status

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weftnet/agent/desired/mesh"
	"github.com/weftnet/weftnet/crds/v1alpha1"
)

// tell makes an event of each new problem. All agents find the same problem of an object; the name
// of the event follows from its content, so that the first to tell it is the only one.
func (p *Publisher) tell(ctx context.Context, problems []mesh.Problem, now time.Time) error {
	current := map[mesh.Problem]bool{}
	var errs []error
	for _, problem := range problems {
		current[problem] = true
		if p.told[problem] || len(p.told) >= maxEvents {
			continue
		}
		if err := p.event(ctx, problem, now); err != nil {
			errs = append(errs, err)
			continue
		}
		p.told[problem] = true
		p.cfg.Log.Warn("bad object", "kind", problem.Kind, "name", problem.Name, "reason", problem.Reason, "message", problem.Message)
	}
	for problem := range p.told {
		if !current[problem] {
			delete(p.told, problem)
		}
	}
	return errors.Join(errs...)
}

func (p *Publisher) event(ctx context.Context, problem mesh.Problem, now time.Time) error {
	namespace, group := eventNamespace, v1alpha1.GroupVersion.String()
	if problem.Namespace != "" { // events about an object in a namespace are there, too
		namespace = problem.Namespace
	}
	if problem.Kind == mesh.KindService {
		group = corev1.SchemeGroupVersion.String()
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(problem.String()))
	e := &eventsv1.Event{
		TypeMeta:            metav1.TypeMeta{APIVersion: "events.k8s.io/v1", Kind: "Event"},
		ObjectMeta:          metav1.ObjectMeta{Name: eventName(problem.Name, h.Sum64()), Namespace: namespace},
		EventTime:           metav1.NewMicroTime(now),
		ReportingController: "weftnet.io/agent", ReportingInstance: p.cfg.Node,
		Action: "Check", Reason: problem.Reason, Note: truncate(problem.Message, 1000), Type: corev1.EventTypeWarning,
		Regarding: corev1.ObjectReference{APIVersion: group, Kind: problem.Kind, Namespace: problem.Namespace, Name: problem.Name},
	}
	err := p.cfg.Events.Post().Namespace(namespace).Resource("events").Body(e).Do(ctx).Error()
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("tell of a problem of %s %s: %w", problem.Kind, problem.Name, err)
	}
	return nil
}

// eventName is as long as a name may be at most. The number tells apart what is cut.
func eventName(object string, number uint64) string {
	const longest = 253
	suffix := fmt.Sprintf(".%016x", number)
	return strings.TrimRight(truncate(object, longest-len(suffix)), ".-") + suffix
}

func truncate(s string, n int) string {
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "")
	}
	return s
}
