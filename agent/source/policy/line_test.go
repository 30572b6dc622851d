package policy

import (
	"context"
	"slices"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// TestCut follows a watch that ends, and comes back when the API server does.
func TestCut(t *testing.T) {
	s := newSource(t)
	watches := make(chan *apiwatch.FakeWatcher)
	lister := s.policies.line.notice(&cache.ListWatch{
		ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
			return &networkingv1.NetworkPolicyList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}}, nil
		},
		WatchFuncWithContext: func(ctx context.Context, _ metav1.ListOptions) (apiwatch.Interface, error) {
			select {
			case w := <-watches:
				return w, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		follow(ctx, watch{name: "policies", lister: withoutWatchList{lister.(*cache.ListWatch)}, object: &networkingv1.NetworkPolicy{}, store: &s.policies})
		close(done)
	}()
	t.Cleanup(func() { cancel(); <-done })
	connect := func() *apiwatch.FakeWatcher { w := apiwatch.NewFake(); watches <- w; return w }
	until := func(what string, holds func() bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		for !holds() {
			if ctx.Err() != nil {
				t.Fatalf("waited for %s; cut off are %v", what, s.Cut())
			}
			pause, end := context.WithTimeout(ctx, 5*time.Millisecond)
			<-pause.Done()
			end()
		}
	}
	isCut := func() bool { return slices.Equal(s.Cut(), []string{"NetworkPolicies"}) }
	if len(s.Cut()) != 0 {
		t.Errorf("cut off before the first watch: %v", s.Cut())
	}
	for range 2 {
		w := connect()
		until("the watch", func() bool { return s.policies.complete() && len(s.Cut()) == 0 })
		w.Add(&networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "prod", Name: "deny", ResourceVersion: "2"}})
		until("the policy", func() bool { _, ok := s.policies.get(key("deny")); return ok })
		w.Stop()
		until("the end to be noticed", isCut)
	}
	if s.Await(t.Context(), func() bool { return len(s.Missing()) > 0 }); !isCut() {
		t.Errorf("cut off are %v", s.Cut())
	}
}

// TestCutWhileListing: a watch that begins with what there was before brings no news until all of that has come.
func TestCutWhileListing(t *testing.T) {
	s := newSource(t)
	l := &s.namespaces.line
	first := &stream{Interface: apiwatch.NewFake(), line: l}
	l.begin(first, true)
	if !l.cut() {
		t.Error("not cut off while the list comes in")
	}
	check(t, s.namespaces.Replace(nil, "1"))
	if l.cut() {
		t.Error("cut off though the list has come")
	}
	second := &stream{Interface: apiwatch.NewFake(), line: l}
	l.begin(second, false)
	first.Stop()
	if l.cut() {
		t.Error("the end of an old watch ends the new one")
	}
	second.Stop()
	if !l.cut() {
		t.Error("not cut off at the end")
	}
}

// withoutWatchList is for API servers that do not stream lists.
type withoutWatchList struct{ *cache.ListWatch }

func (withoutWatchList) IsWatchListSemanticsUnSupported() bool { return true }
