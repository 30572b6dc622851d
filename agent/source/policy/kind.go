package policy

import (
	"fmt"
	"sync"
	"time"

	"k8s.io/client-go/tools/cache"
)

// kind is what a reflector fills: the last known objects of one kind as plain values, and the keys
// that have changed since somebody asked.
type kind[K comparable, V any] struct {
	// read gives the value of an object; keep is false for one that policies do not look at.
	read  func(object any) (key K, value V, keep bool, err error)
	equal func(a, b V) bool
	// wake is called, outside of the lock, when there is news.
	wake func()
	now  func() time.Time
	line line

	mu      sync.Mutex
	values  map[K]V
	changed map[K]struct{}
	since   time.Time // of the oldest change
	synced  bool
}

// item is an object that has been read. Reflectors keep items instead of objects while a list comes
// in, which for Pods is a small part of the memory.
type item[K comparable, V any] struct {
	key   K
	value V
	keep  bool
}

var _ cache.TransformingStore = (*kind[int, int])(nil)

// Transformer reads objects as they come in.
func (k *kind[K, V]) Transformer() cache.TransformFunc {
	return func(object any) (any, error) { return k.item(object) }
}

func (k *kind[K, V]) item(object any) (item[K, V], error) {
	if i, done := object.(item[K, V]); done {
		return i, nil
	}
	if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = gone.Obj
	}
	key, value, keep, err := k.read(object)
	return item[K, V]{key, value, keep}, err
}

// Add is called for an object that appeared.
func (k *kind[K, V]) Add(object any) error { return k.Update(object) }

// Update is called for an object that changed.
func (k *kind[K, V]) Update(object any) error {
	i, err := k.item(object)
	if err != nil {
		return err
	}
	k.mu.Lock()
	news := k.put(i)
	k.mu.Unlock()
	if news {
		k.wake()
	}
	return nil
}

// put tells whether there is news.
func (k *kind[K, V]) put(i item[K, V]) bool {
	old, known := k.values[i.key]
	switch {
	case !i.keep && !known, i.keep && known && k.equal(old, i.value):
		return false
	case !i.keep:
		delete(k.values, i.key)
	case k.values == nil:
		k.values = map[K]V{i.key: i.value}
	default:
		k.values[i.key] = i.value
	}
	k.note(i.key)
	return true
}

func (k *kind[K, V]) note(key K) {
	if len(k.changed) == 0 {
		k.changed, k.since = map[K]struct{}{}, k.now()
	}
	k.changed[key] = struct{}{}
}

// Delete is called for an object that the API server says is gone.
func (k *kind[K, V]) Delete(object any) error {
	i, err := k.item(object)
	if err != nil {
		return err
	}
	i.keep = false
	return k.Update(i)
}

// Replace is called with a complete list.
func (k *kind[K, V]) Replace(objects []any, _ string) error {
	seen := make(map[K]struct{}, len(objects))
	items := make([]item[K, V], 0, len(objects))
	for _, object := range objects {
		i, err := k.item(object)
		if err != nil {
			return fmt.Errorf("read a list: %w", err)
		}
		seen[i.key] = struct{}{}
		items = append(items, i)
	}
	k.mu.Lock()
	for key := range k.values {
		if _, still := seen[key]; !still {
			delete(k.values, key)
			k.note(key)
		}
	}
	for _, i := range items {
		k.put(i)
	}
	k.synced = true
	k.mu.Unlock()
	k.line.listed()
	k.wake()
	return nil
}

// Resync has no meaning here.
func (k *kind[K, V]) Resync() error { return nil }

// settle says that there are none, where no list was ever read.
func (k *kind[K, V]) settle() {
	k.mu.Lock()
	news := !k.synced
	k.synced = true
	k.mu.Unlock()
	if news {
		k.wake()
	}
}

// take gives what has changed, nil for what is gone, and since when.
func (k *kind[K, V]) take() (map[K]*V, time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.changed) == 0 {
		return nil, time.Time{}
	}
	out := make(map[K]*V, len(k.changed))
	for key := range k.changed {
		out[key] = nil
		if v, ok := k.values[key]; ok {
			out[key] = &v
		}
	}
	k.changed = nil
	return out, k.since
}

func (k *kind[K, V]) get(key K) (V, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	v, ok := k.values[key]
	return v, ok
}

func (k *kind[K, V]) find(is func(V) bool) (key K, found bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for key, v := range k.values {
		if is(v) {
			return key, true
		}
	}
	return key, false
}

func (k *kind[K, V]) complete() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.synced
}
