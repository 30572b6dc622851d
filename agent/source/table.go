package source

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/cache"
)

// table is what a reflector fills: the last known objects of one kind, already as plain values. A
// reflector that fails leaves it as it is, so that the last known state stays in use.
type table[V any] struct {
	convert func(object any) (V, bool)
	equal   func(a, b V) bool
	// changed is called, outside of the lock, when a value or the answer of synced has changed.
	changed func()

	mu     sync.Mutex
	values map[string]V
	synced bool
}

// The reflector's view of the table; with WatchList it fills a store of its own first and calls
// Replace when that is complete.
var _ cache.ReflectorStore = (*table[int])(nil)

func (t *table[V]) put(object any) error {
	name, v, err := t.read(object)
	if err != nil {
		return err
	}
	t.mu.Lock()
	old, known := t.values[name]
	same := known && t.equal(old, v)
	if t.values == nil {
		t.values = map[string]V{}
	}
	t.values[name] = v
	t.mu.Unlock()
	if !same {
		t.changed()
	}
	return nil
}

func (t *table[V]) read(object any) (string, V, error) {
	var zero V
	m, err := meta.Accessor(object)
	if err != nil {
		return "", zero, fmt.Errorf("read the name of an object: %w", err)
	}
	v, ok := t.convert(object)
	if !ok {
		return "", zero, fmt.Errorf("read %s: unexpected type %T", m.GetName(), object)
	}
	return m.GetName(), v, nil
}

// Add is called for an object that appeared.
func (t *table[V]) Add(object any) error { return t.put(object) }

// Update is called for an object that changed.
func (t *table[V]) Update(object any) error { return t.put(object) }

// Delete is called for an object that the API server says is gone.
func (t *table[V]) Delete(object any) error {
	m, err := meta.Accessor(object)
	if err != nil {
		return fmt.Errorf("read the name of a deleted object: %w", err)
	}
	t.mu.Lock()
	delete(t.values, m.GetName())
	t.mu.Unlock()
	t.changed()
	return nil
}

// Replace is called with a complete list.
func (t *table[V]) Replace(objects []any, _ string) error {
	values := make(map[string]V, len(objects))
	for _, object := range objects {
		name, v, err := t.read(object)
		if err != nil {
			return err
		}
		values[name] = v
	}
	t.mu.Lock()
	t.values, t.synced = values, true
	t.mu.Unlock()
	t.changed()
	return nil
}

// Resync has no meaning here.
func (t *table[V]) Resync() error { return nil }

// list returns the values by name, and whether a complete list has ever been read.
func (t *table[V]) list() (values []V, synced bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	names := make([]string, 0, len(t.values))
	for name := range t.values {
		names = append(names, name)
	}
	slices.SortFunc(names, cmp.Compare)
	for _, name := range names {
		values = append(values, t.values[name])
	}
	return values, t.synced
}

func (t *table[V]) get(name string) (V, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v, ok := t.values[name]
	return v, ok
}
