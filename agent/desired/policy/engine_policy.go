package policy

import (
	"slices"

	"github.com/weftnet/weftnet/agent/snapshot"
)

// SetNetworkPolicy adds or replaces a NetworkPolicy.
func (e *Engine) SetNetworkPolicy(np snapshot.NetworkPolicy) {
	e.replaceNetworkPolicy(np.Key(), fromNetworkPolicy(np))
}

// DeleteNetworkPolicy forgets a NetworkPolicy.
func (e *Engine) DeleteNetworkPolicy(key snapshot.NamespacedName) { e.replaceNetworkPolicy(key, nil) }

func (e *Engine) replaceNetworkPolicy(key snapshot.NamespacedName, now *policy) {
	old := e.policies[key]
	delete(e.policies, key)
	if now != nil {
		e.policies[key] = now
	}
	list := exchange(e.byNS[key.Namespace], old, now)
	if len(list) == 0 {
		delete(e.byNS, key.Namespace)
	} else {
		e.byNS[key.Namespace] = list
	}
	e.touch(old, now)
}

// SetClusterNetworkPolicy adds or replaces a ClusterNetworkPolicy.
func (e *Engine) SetClusterNetworkPolicy(c snapshot.ClusterNetworkPolicy) {
	e.replaceClusterPolicy(c.Name, fromClusterNetworkPolicy(c))
}

// DeleteClusterNetworkPolicy forgets a ClusterNetworkPolicy.
func (e *Engine) DeleteClusterNetworkPolicy(name string) { e.replaceClusterPolicy(name, nil) }

func (e *Engine) replaceClusterPolicy(name string, now *policy) {
	old := e.cluster[name]
	delete(e.cluster, name)
	if now != nil {
		e.cluster[name] = now
	}
	e.ordered = exchange(e.ordered, old, now)
	e.touch(old, now)
}

// exchange gives the sorted list with one policy in the place of another.
func exchange(list []*policy, old, now *policy) []*policy {
	out := slices.DeleteFunc(slices.Clone(list), func(p *policy) bool { return p == old })
	if now == nil {
		return out
	}
	i, _ := slices.BinarySearchFunc(out, now, (*policy).order)
	return slices.Insert(out, i, now)
}

// touch marks the interfaces whose judgement one of the policies is part of.
func (e *Engine) touch(old, now *policy) {
	if now != nil {
		e.serial++
		now.serial = e.serial
	}
	for _, ep := range e.endpoints {
		ep.dirty = ep.dirty || e.concerns(old, ep) || e.concerns(now, ep)
	}
}

// concerns tells whether a policy selects the Pod of an interface, or might, as far as is known.
func (e *Engine) concerns(p *policy, ep *endpoint) bool {
	if p == nil {
		return false
	}
	s := e.subjectOf(ep)
	if s.pod == nil {
		return p.subject.namespace == "" || p.subject.namespace == ep.Pod.Namespace
	}
	return p.tier != TierNetworkPolicy && s.ns == nil || p.subject.matches(&s.pod.Pod, s.ns)
}

func (e *Engine) touchAll() {
	for _, ep := range e.endpoints {
		ep.dirty = true
	}
}

// Attach adds or replaces the interface of a Pod on this node.
func (e *Engine) Attach(in Endpoint) {
	in.IPs = cleanAll(in.IPs)
	old := e.endpoints[in.Link]
	if old != nil {
		if old.Pod == in.Pod && old.UID == in.UID && slices.Equal(old.IPs, in.IPs) {
			return
		}
		e.Detach(in.Link)
	}
	ep := &endpoint{Endpoint: in, dirty: true}
	e.endpoints[in.Link] = ep
	e.endpointsOf[in.Pod] = append(slices.Clone(e.endpointsOf[in.Pod]), ep)
	for _, a := range in.IPs {
		e.endpointAt[a] = ep
	}
	e.refreshPod(in.Pod)
}

// Detach forgets an interface.
func (e *Engine) Detach(link string) {
	ep := e.endpoints[link]
	if ep == nil {
		return
	}
	delete(e.endpoints, link)
	rest := slices.DeleteFunc(slices.Clone(e.endpointsOf[ep.Pod]), func(x *endpoint) bool { return x == ep })
	if len(rest) == 0 {
		delete(e.endpointsOf, ep.Pod)
	} else {
		e.endpointsOf[ep.Pod] = rest
	}
	for _, a := range ep.IPs {
		if e.endpointAt[a] == ep {
			delete(e.endpointAt, a)
		}
	}
	e.out.detach(ep)
	e.refreshPod(ep.Pod)
}

// Shut closes the Pod of an interface in both directions whatever policies say, or leaves it to them
// again. It is for rules that the kernel does not take.
func (e *Engine) Shut(link string, on bool) {
	if ep := e.endpoints[link]; ep != nil && ep.shut != on {
		ep.shut, ep.dirty = on, true
	}
}

// refreshPod finds a Pod's addresses again, after its interfaces have changed.
func (e *Engine) refreshPod(key snapshot.NamespacedName) {
	if p := e.pods[key]; p != nil {
		e.replacePod(key, &pod{Pod: p.Pod})
	}
}

// Problems are those of all policies, sorted by object and field.
func (e *Engine) Problems() []Problem {
	var out []Problem
	for _, p := range e.policies {
		out = append(out, p.problems...)
	}
	for _, p := range e.cluster {
		out = append(out, p.problems...)
	}
	slices.SortFunc(out, Problem.compare)
	return out
}
