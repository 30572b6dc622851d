package service

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"

	"github.com/weftnet/weftnet/agent/snapshot"
)

// store is a reflector's view of one kind. The list that a reflector gathers at the start is of
// converted values, too: 80,000 whole EndpointSlices are some 200 MiB.
type store[V any] struct {
	source  *Source
	kind    string
	convert func(object any) (V, error)
	// put, remove and replace are called with the source locked.
	put     func(name snapshot.ServiceName, v V)
	remove  func(name snapshot.ServiceName)
	replace func(all map[snapshot.ServiceName]V)
}

var _ cache.TransformingStore = (*store[int])(nil)

// item is a converted object, with just enough of the original for the reflector to tell it apart.
type item[V any] struct {
	name  snapshot.ServiceName
	value V
}

// GetObjectMeta makes the reflector's list of items by name work.
func (i *item[V]) GetObjectMeta() metav1.Object {
	return &metav1.ObjectMeta{Namespace: i.name.Namespace, Name: i.name.Name}
}

// GetObjectKind and DeepCopyObject let a list have it, whose reader knows what it is.
func (i *item[V]) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject is for nobody: an item is not changed.
func (i *item[V]) DeepCopyObject() runtime.Object { return i }

// Transformer converts objects while the list is being gathered.
func (t *store[V]) Transformer() cache.TransformFunc {
	return func(object any) (any, error) { return t.read(object) }
}

func (t *store[V]) read(object any) (*item[V], error) {
	if i, ok := object.(*item[V]); ok {
		return i, nil
	}
	m, err := meta.Accessor(object)
	if err != nil {
		return nil, fmt.Errorf("read the name of one of %s: %w", t.kind, err)
	}
	i := &item[V]{name: snapshot.ServiceName{Namespace: shared(m.GetNamespace()), Name: strings.Clone(m.GetName())}}
	if i.value, err = t.convert(object); err != nil {
		return nil, fmt.Errorf("read one of %s: %w", t.kind, err)
	}
	return i, nil
}

func (t *store[V]) set(object any) error {
	i, err := t.read(object)
	if err != nil {
		return err
	}
	t.change(func() { t.put(i.name, i.value) })
	return nil
}

// change runs f with the source locked, and signals if there is news then.
func (t *store[V]) change(f func()) {
	t.source.mu.Lock()
	f()
	news := !t.source.pending.Empty()
	t.source.mu.Unlock()
	if news {
		t.source.signal()
	}
}

// Add is called for an object that appeared.
func (t *store[V]) Add(object any) error { return t.set(object) }

// Update is called for an object that changed.
func (t *store[V]) Update(object any) error { return t.set(object) }

// Delete is called for an object that the API server says is gone.
func (t *store[V]) Delete(object any) error {
	m, err := meta.Accessor(object)
	if err != nil {
		return fmt.Errorf("read the name of one of %s: %w", t.kind, err)
	}
	t.change(func() { t.remove(snapshot.ServiceName{Namespace: m.GetNamespace(), Name: m.GetName()}) })
	return nil
}

// Replace is called with a complete list.
func (t *store[V]) Replace(objects []any, _ string) error {
	all := make(map[snapshot.ServiceName]V, len(objects))
	for _, object := range objects {
		i, err := t.read(object)
		if err != nil {
			return err
		}
		all[i.name] = i.value
	}
	t.change(func() {
		t.replace(all)
		t.source.synced[t.kind] = true
	})
	t.source.signal() // being in sync is news by itself
	return nil
}

// Resync has no meaning here.
func (t *store[V]) Resync() error { return nil }

// touch queues a Service.
func (s *Source) touch(name snapshot.ServiceName) {
	if s.pending.Services == nil {
		s.pending.Services = map[snapshot.ServiceName]struct{}{}
	}
	s.pending.Services[name] = struct{}{}
}

func (s *Source) putService(name snapshot.ServiceName, v *snapshot.Service) {
	old := s.services[name]
	if v == nil {
		s.removeService(name)
		return
	}
	s.pending.ServiceEvents++
	s.services[name] = v
	if old == nil || !old.Equal(*v) {
		s.pending.ServiceChanges++
		s.touch(name)
	}
}

func (s *Source) removeService(name snapshot.ServiceName) {
	if s.services[name] == nil {
		return
	}
	s.pending.ServiceEvents++
	s.pending.ServiceChanges++
	delete(s.services, name)
	s.touch(name)
}

func (s *Source) replaceServices(all map[snapshot.ServiceName]*snapshot.Service) {
	for name := range s.services {
		if all[name] == nil {
			s.removeService(name)
		}
	}
	for name, v := range all {
		s.putService(name, v)
	}
}

func serviceOf(v *snapshot.EndpointSlice) snapshot.ServiceName {
	return snapshot.ServiceName{Namespace: v.Namespace, Name: v.Service}
}

// sliceTable is the EndpointSlices by their own names and by Service.
type sliceTable struct {
	byName    map[snapshot.ServiceName]*snapshot.EndpointSlice
	byService map[snapshot.ServiceName][]*snapshot.EndpointSlice
}

func newSliceTable() sliceTable {
	return sliceTable{byName: map[snapshot.ServiceName]*snapshot.EndpointSlice{}, byService: map[snapshot.ServiceName][]*snapshot.EndpointSlice{}}
}

// of returns the slices of a Service, sorted by name.
func (t sliceTable) of(service snapshot.ServiceName) []snapshot.EndpointSlice {
	list := t.byService[service]
	out := make([]snapshot.EndpointSlice, len(list))
	for i, p := range list {
		out[i] = *p
	}
	return out
}

func (t sliceTable) remove(name snapshot.ServiceName) *snapshot.EndpointSlice {
	old := t.byName[name]
	if old == nil {
		return nil
	}
	delete(t.byName, name)
	service := serviceOf(old)
	rest := slices.DeleteFunc(slices.Clone(t.byService[service]), func(p *snapshot.EndpointSlice) bool { return p == old })
	if t.byService[service] = rest; len(rest) == 0 {
		delete(t.byService, service)
	}
	return old
}

func (t sliceTable) put(name snapshot.ServiceName, v *snapshot.EndpointSlice) (old *snapshot.EndpointSlice) {
	old = t.remove(name)
	t.byName[name] = v
	service := serviceOf(v)
	list := append(slices.Clip(t.byService[service]), v)
	slices.SortFunc(list, func(a, b *snapshot.EndpointSlice) int { return strings.Compare(a.Name, b.Name) })
	t.byService[service] = list
	return old
}

func (s *Source) putSlice(name snapshot.ServiceName, v *slice) {
	if v == nil {
		s.removeSlice(name)
		return
	}
	s.pending.SliceEvents++
	old := s.slices.put(name, &v.EndpointSlice)
	if old != nil && old.Equal(v.EndpointSlice) {
		return
	}
	s.pending.SliceChanges++
	if old != nil && old.Service != v.Service {
		s.touch(serviceOf(old))
	}
	s.touch(serviceOf(&v.EndpointSlice))
	if v.trigger.After(s.started) {
		s.trigger(serviceOf(&v.EndpointSlice), v.trigger)
	}
}

// trigger notes what caused a change, for the measurement of how long it took to be in force.
func (s *Source) trigger(service snapshot.ServiceName, at time.Time) {
	if s.pending.Triggers == nil {
		s.pending.Triggers = map[snapshot.ServiceName][]time.Time{}
	}
	s.pending.Triggers[service] = append(s.pending.Triggers[service], at)
}

func (s *Source) removeSlice(name snapshot.ServiceName) {
	old := s.slices.remove(name)
	if old == nil {
		return
	}
	s.pending.SliceEvents++
	s.pending.SliceChanges++
	s.touch(serviceOf(old))
	// As kube-proxy does: a slice that is gone says nothing of when.
	delete(s.pending.Triggers, serviceOf(old))
}

func (s *Source) replaceSlices(all map[snapshot.ServiceName]*slice) {
	for name := range s.slices.byName {
		if all[name] == nil {
			s.removeSlice(name)
		}
	}
	for name, v := range all {
		s.putSlice(name, v)
	}
}

func (s *Source) putCIDR(name snapshot.ServiceName, v CIDR) {
	if old, ok := s.cidrs[name.Name]; !ok || !slices.Equal(old, v) {
		s.cidrs[name.Name], s.pending.Facts = v, true
	}
}

func (s *Source) removeCIDR(name snapshot.ServiceName) {
	if _, ok := s.cidrs[name.Name]; ok {
		delete(s.cidrs, name.Name)
		s.pending.Facts = true
	}
}

func (s *Source) replaceCIDRs(all map[snapshot.ServiceName]CIDR) {
	for name := range s.cidrs {
		if _, ok := all[snapshot.ServiceName{Name: name}]; !ok {
			s.removeCIDR(snapshot.ServiceName{Name: name})
		}
	}
	for name, v := range all {
		s.putCIDR(name, v)
	}
}

// putNode keeps addresses that are known when the object has none for a moment.
func (s *Source) putNode(_ snapshot.ServiceName, v Node) {
	if len(v.IPs) == 0 {
		v.IPs = s.node.IPs
	}
	if !s.node.equal(v) {
		s.node, s.pending.Facts = v, true
	}
}

// removeNode keeps what is known: a node whose object is gone still has its Pods and its addresses.
func (s *Source) removeNode(snapshot.ServiceName) {}

func (s *Source) replaceNodes(all map[snapshot.ServiceName]Node) {
	for name, v := range all {
		s.putNode(name, v)
	}
}
