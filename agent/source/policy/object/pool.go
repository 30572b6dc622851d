package object

import (
	"strings"
	"sync"

	"github.com/weftnet/weftnet/agent/snapshot"
)

// spare is how many values may be pooled before those in use are asked for.
const spare = 4096

// Pool holds equal texts, label sets and port lists once. A nil Pool holds nothing and is ready to use.
// What is no longer in use is forgotten now and then: a value that comes back is then held twice, which
// costs a little memory and nothing else.
type Pool struct {
	mu     sync.Mutex
	texts  map[string]string
	labels map[string]snapshot.Labels
	ports  map[string][]snapshot.NamedPort
}

// Text returns the pooled copy of a text.
func (p *Pool) Text(s string) string {
	if p == nil || s == "" {
		return s
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text(s)
}

func (p *Pool) text(s string) string {
	if have, ok := p.texts[s]; ok {
		return have
	}
	if p.texts == nil || len(p.texts) >= spare {
		p.texts = map[string]string{}
	}
	s = strings.Clone(s) // not a part of a larger message
	p.texts[s] = s
	return s
}

// Labels returns the pooled copy of a label set: the Pods of a Deployment have the same.
func (p *Pool) Labels(in map[string]string) snapshot.Labels {
	l := snapshot.NewLabels(in)
	if p == nil || len(l) == 0 {
		return l
	}
	var key strings.Builder
	for _, one := range l {
		key.WriteString(one.Key + "\x00" + one.Value + "\x00")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if have, ok := p.labels[key.String()]; ok {
		return have
	}
	if p.labels == nil || len(p.labels) >= spare {
		p.labels = map[string]snapshot.Labels{}
	}
	for i := range l {
		l[i] = snapshot.Label{Key: p.text(l[i].Key), Value: p.text(l[i].Value)}
	}
	p.labels[key.String()] = l
	return l
}

// Ports returns the pooled copy of a list of ports.
func (p *Pool) Ports(ports []snapshot.NamedPort) []snapshot.NamedPort {
	if p == nil || len(ports) == 0 {
		return ports
	}
	var key strings.Builder
	for _, one := range ports {
		key.WriteString(one.Name)
		key.Write([]byte{0, one.Protocol, byte(one.Port >> 8), byte(one.Port)})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if have, ok := p.ports[key.String()]; ok {
		return have
	}
	if p.ports == nil || len(p.ports) >= spare {
		p.ports = map[string][]snapshot.NamedPort{}
	}
	for i := range ports {
		ports[i].Name = p.text(ports[i].Name)
	}
	p.ports[key.String()] = ports
	return ports
}
