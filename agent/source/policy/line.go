package policy

import (
	"context"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// line tells whether news of a kind comes in. While none does, what is known may be old: others, such as
// the kubelet, may know better.
type line struct {
	wake func()

	mu sync.Mutex
	// stream is the watch that runs; nil when there is none.
	stream *stream
	// listing says that the watch still sends what there was before it, used that there has been one.
	listing, used bool
}

// stream is one watch, until its user stops it.
type stream struct {
	apiwatch.Interface
	line *line
}

// Stop is called as soon as nothing more comes.
func (s *stream) Stop() {
	s.line.end(s)
	s.Interface.Stop()
}

// notice has the watches of a ListerWatcher noticed.
func (l *line) notice(lw cache.ListerWatcher) cache.ListerWatcher {
	from := cache.ToListerWatcherWithContext(lw)
	return &cache.ListWatch{
		ListWithContextFunc: from.ListWithContext,
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
			w, err := from.WatchWithContext(ctx, o)
			if err != nil {
				return nil, err
			}
			s := &stream{Interface: w, line: l}
			l.begin(s, o.SendInitialEvents != nil && *o.SendInitialEvents)
			return s, nil
		},
	}
}

func (l *line) begin(s *stream, listing bool) {
	l.mu.Lock()
	l.stream, l.listing, l.used = s, listing, true
	l.mu.Unlock()
	l.wake()
}

// listed : everything from before has been read.
func (l *line) listed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.listing = false
}

func (l *line) end(s *stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stream == s {
		l.stream = nil
	}
}

// cut tells that news came in once, and does not now.
func (l *line) cut() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.used && (l.stream == nil || l.listing)
}
