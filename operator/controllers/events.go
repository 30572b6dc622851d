package controllers

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"

	"github.com/weftnet/weftnet/operator/plan"
)

// reporter makes events, each problem one when it comes up. A problem that stays is in the
// conditions and the metrics.
type reporter struct {
	recorder events.EventRecorder
	mu       sync.Mutex
	known    map[plan.Problem]bool
}

func newReporter(recorder events.EventRecorder) *reporter {
	return &reporter{recorder: recorder, known: map[plan.Problem]bool{}}
}

// report makes an event of every problem that was not there at the last plan.
func (r *reporter) report(seen *snapshot, problems []plan.Problem) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := make(map[plan.Problem]bool, len(problems))
	for _, p := range problems {
		now[p] = true
		if object := seen.object(p); object != nil && !r.known[p] {
			r.recorder.Eventf(object, nil, corev1.EventTypeWarning, string(p.Reason), "Allocate", "%s", p.Message)
		}
	}
	r.known = now
}

// gave tells of the blocks that a node got.
func (r *reporter) gave(node *corev1.Node, blocks []netip.Prefix) {
	if node == nil || len(blocks) == 0 {
		return
	}
	r.recorder.Eventf(node, nil, corev1.EventTypeNormal, string(plan.ReasonAllocated), "Allocate", "%s",
		fmt.Sprintf("the node has %s", strings.Join(texts(blocks), " and ")))
}

// object that a problem is about, nil when it is not there.
func (s *snapshot) object(p plan.Problem) runtime.Object {
	switch p.Kind {
	case plan.KindNode:
		if o := s.nodes[p.Name]; o != nil {
			return o
		}
	case plan.KindMeshNode:
		if o := s.meshNodes[p.Name]; o != nil {
			return o
		}
	case plan.KindPool:
		if o := s.pools[p.Name]; o != nil {
			return o
		}
	}
	return nil
}
