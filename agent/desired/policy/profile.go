package policy

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"

	"github.com/weftnet/weftnet/agent/state"
)

// profile is the judgement of one direction and family for all Pods that the same policies select.
// Its chains hold no jump but those into audit chains, which always come back: a return out of them
// leads to the base chain.
type profile struct {
	key   string
	uses  int
	entry string // the chain that judges
	items []*item
	sites []*siteUse
}

// siteUse is a place that denies, and how many profiles have it.
type siteUse struct {
	Site
	uses int
}

// builder makes one profile.
type builder struct {
	e   *Engine
	c   *compiled
	d   Direction
	fam *family
	pod *pod // for ports that have a name at ingress
	out *profile
}

// profileOf finds or makes the judgement of one direction and family for an interface, and takes a
// share in it; nil where nothing is judged.
func (e *Engine) profileOf(s subject, policies []*policy, d Direction, fam *family) *profile {
	shut := e.shut(d, s)
	key := profileKey(s, policies, d, fam, shut)
	if key == nil {
		return nil
	}
	p := e.out.profiles[string(key)]
	if p == nil {
		b := &builder{e: e, c: e.out, d: d, fam: fam, pod: s.pod, out: &profile{key: string(key)}}
		if shut {
			b.out.entry = b.deny(Site{Tier: TierUnknown, Rule: -1})
		} else {
			b.tiers(slices.DeleteFunc(slices.Clone(policies), func(p *policy) bool { return !p.has(d) }))
		}
		p = b.out
		e.out.profiles[p.key] = p
	}
	p.uses++
	return p
}

// profileKey is the same for subjects of which the same chains judge; nil where nothing does. Of each Pod it
// holds every policy, so it is bytes, not text: with a thousand policies on each of a hundred Pods, writing
// numbers out took longer than the kernel takes for the change.
func profileKey(s subject, policies []*policy, d Direction, fam *family, shut bool) []byte {
	key := []byte(d.String() + fam.suffix)
	if shut {
		return append(key, " shut"...)
	}
	head, named := len(key), false
	for _, p := range policies {
		if p.has(d) {
			key = binary.AppendUvarint(key, p.serial)
			named = named || p.sections[d].named
		}
	}
	if len(key) == head {
		return nil
	}
	key = append(key, 0) // no policy's number: they count from 1
	if named && d == Ingress {
		for _, n := range s.pod.Ports {
			key = append(key, " "+n.Name+"/"+strconv.Itoa(int(n.Protocol))+":"+strconv.Itoa(int(n.Port))...)
		}
	}
	return key
}

// drop gives back a share in a profile.
func (c *compiled) drop(p *profile) {
	if p == nil {
		return
	}
	p.uses--
	if p.uses > 0 {
		return
	}
	delete(c.profiles, p.key)
	for _, it := range p.items {
		c.release(it)
	}
	for _, s := range p.sites {
		s.uses--
		if s.uses == 0 {
			delete(c.sites, s.ID)
		}
	}
}

// forgetProfiles lets none be shared any more with those that come.
func (c *compiled) forgetProfiles() {
	for _, p := range c.profiles {
		p.key = "old " + p.key
	}
	c.profiles = map[string]*profile{}
}

// use takes a share in an item for the profile.
func (b *builder) use(kind, name string, create func() *item) string {
	b.out.items = append(b.out.items, b.c.use(kind+" "+name, create))
	return name
}

// keep takes a share in the sets of a line.
func (b *builder) keep(l line) {
	for _, n := range l.needs {
		b.use("set", n.name, n.make)
	}
}

// chain makes a chain that is called after what it holds; an empty one needs none.
func (b *builder) chain(what string, rules []state.ChainRule) string {
	if len(rules) == 0 {
		return ""
	}
	var text strings.Builder
	for _, r := range rules {
		text.WriteString(r.String() + "\n")
	}
	name := b.prefix() + what + "-" + hash(text.String())
	return b.use("chain", name, func() *item { return &item{chain: &state.Chain{Name: name, Rules: rules}} })
}

func (b *builder) prefix() string {
	if b.d == Egress {
		return "out" + b.fam.suffix + "-"
	}
	return "in" + b.fam.suffix + "-"
}

// accept ends the judgement of the direction: at egress that of ingress follows in the base chain.
func (b *builder) accept() state.Verdict {
	if b.d == Egress {
		return state.Return
	}
	return state.Accept
}

// tiers makes the chains: Admin, which leads to the tail, NetworkPolicy or Baseline.
func (b *builder) tiers(policies []*policy) {
	force, trial := isolating(policies, b.d)
	var tail string
	if len(force) > 0 {
		tail = b.chain("np", b.isolation(force))
	} else {
		rules := b.trial(trial)
		tail = b.chain("base", append(rules, b.cluster(policies, TierBaseline, b.accept())...))
	}
	pass := b.accept()
	if tail != "" {
		pass = state.Goto(tail)
	}
	rules := b.cluster(policies, TierAdmin, pass)
	if len(rules) == 0 {
		b.out.entry = tail
		return
	}
	if tail != "" {
		rules = append(rules, ruleOf("", nil, state.Goto(tail)))
	}
	b.out.entry = b.chain("admin", rules)
}

func ruleOf(comment string, match []state.Statement, then ...state.Statement) state.ChainRule {
	const longest = 127
	return state.ChainRule{Statements: slices.Concat(match, then), Comment: comment[:min(len(comment), longest)]}
}

// allowed are the rules of NetworkPolicies, each match once.
func (b *builder) allowed(policies []*policy, then state.Verdict) []state.ChainRule {
	var out []state.ChainRule
	seen := map[string]bool{}
	for _, p := range policies {
		for _, l := range b.linesOf(p) {
			if !seen[l.text] {
				seen[l.text] = true
				b.keep(l)
				out = append(out, ruleOf(p.name, l.match, then))
			}
		}
	}
	return out
}

// linesOf are the matches of all rules of a policy. They are made once, unless they depend on what
// the Pod itself calls its ports.
func (b *builder) linesOf(p *policy) []line {
	cache := &p.lines[b.d][b.fam.index]
	if *cache != nil {
		return *cache
	}
	s := p.sections[b.d]
	out := []line{}
	for i := range s.rules {
		for _, l := range b.matches(&s.rules[i]) {
			l.text = state.ChainRule{Statements: l.match}.String()
			out = append(out, l)
		}
	}
	if !s.named || b.d == Egress {
		*cache = out
	}
	return out
}

// isolation is the tier of NetworkPolicies that are in force: what none of them allows is denied.
func (b *builder) isolation(force []*policy) []state.ChainRule {
	logged := slices.ContainsFunc(force, func(p *policy) bool { return p.log })
	site := Site{Tier: TierNetworkPolicy, Policies: names(force), Rule: -1, Log: logged}
	var rules []state.ChainRule
	if len(force) > segmentSize {
		rules = b.segmented(force)
	} else {
		rules = b.allowed(force, b.accept())
	}
	return append(rules, ruleOf("", nil, state.Goto(b.deny(site))))
}

// trial jumps to the NetworkPolicies in audit mode.
func (b *builder) trial(policies []*policy) []state.ChainRule {
	if len(policies) == 0 {
		return nil
	}
	logged := slices.ContainsFunc(policies, func(p *policy) bool { return p.log })
	site := Site{Tier: TierNetworkPolicy, Policies: names(policies), Rule: -1, Log: logged, Audit: true}
	rules := append(b.allowed(policies, state.Return), ruleOf("", nil, state.Goto(b.deny(site))))
	return []state.ChainRule{ruleOf("", nil, state.Jump(b.chain("audit", rules)))}
}

// cluster is a tier of ClusterNetworkPolicies.
func (b *builder) cluster(policies []*policy, t Tier, pass state.Verdict) []state.ChainRule {
	var out []state.ChainRule
	for _, p := range policies {
		if p.tier != t {
			continue
		}
		if !p.audit {
			out = append(out, b.ruled(p, b.accept(), pass)...)
			continue
		}
		if rules := b.ruled(p, state.Return, state.Return); len(rules) > 0 {
			out = append(out, ruleOf(p.name, nil, state.Jump(b.chain("audit", rules))))
		}
	}
	return out
}

// ruled are the rules of one ClusterNetworkPolicy in their order.
func (b *builder) ruled(p *policy, accept, pass state.Verdict) []state.ChainRule {
	var out []state.ChainRule
	rules := p.sections[b.d].rules
	for i := range rules {
		r := &rules[i]
		matches := b.matches(r)
		if len(matches) == 0 {
			continue
		}
		then := accept
		switch r.action {
		case actionDeny:
			then = state.Goto(b.deny(Site{Tier: p.tier, Policies: []string{p.name}, Rule: r.index, RuleName: r.name, Log: p.log, Audit: p.audit}))
		case actionPass:
			then = pass
		case actionAccept:
		}
		for _, l := range matches {
			b.keep(l)
			out = append(out, ruleOf(p.name+" "+strconv.Itoa(r.index), l.match, then))
		}
	}
	return out
}

// deny makes the chain of a place that denies, or in audit mode says that it would.
func (b *builder) deny(s Site) string {
	s.Direction = b.d
	s.ID = hash(s.Direction.String(), string(s.Tier), strings.Join(s.Policies, " "), strconv.Itoa(s.Rule), strconv.FormatBool(s.Audit))[:10]
	s.Log = s.Log && b.e.options.Log == LogAnnotated || b.e.options.Log == LogAll
	use := b.c.sites[s.ID]
	if use == nil {
		use = &siteUse{}
		b.c.sites[s.ID] = use
	}
	use.Site = s
	use.uses++
	b.out.sites = append(b.out.sites, use)
	counter := s.Counter()
	b.use("counter", counter, func() *item { return &item{counter: counter} })
	name := counter
	prefix := LogPrefixDeny
	if s.Audit {
		prefix = LogPrefixAudit
	}
	var rules []state.ChainRule
	if s.Log {
		rate, group := b.e.options.LogRate, b.e.options.LogGroup
		name += "-log-" + strconv.Itoa(int(rate)) + "-" + strconv.Itoa(int(group))
		rules = append(rules, ruleOf("", nil, state.Limit{Rate: rate, Burst: rate}, state.Log{Group: group, Prefix: prefix + s.ID + " "}))
	}
	comment := strings.TrimSpace(string(s.Tier) + " " + strings.Join(s.Policies, " "))
	rules = append(rules, ruleOf(comment, nil, state.Count{Name: counter}))
	if !s.Audit {
		link, set := state.FieldOIFName, setDeniedIn
		if b.d == Egress {
			link, set = state.FieldIIFName, setDeniedOut
		}
		rules = append(rules, ruleOf("", nil, state.InSet{Fields: state.Fields(link), Set: set}), ruleOf("", nil, state.Drop))
	}
	return b.use("chain", name, func() *item { return &item{chain: &state.Chain{Name: name, Rules: rules}} })
}

// Site finds a place that denies by its ID.
func (e *Engine) Site(id string) (Site, bool) {
	s := e.out.sites[id]
	if s == nil {
		return Site{}, false
	}
	return s.Site, true
}

// Sites are all places that deny, by ID.
func (e *Engine) Sites() []Site {
	out := make([]Site, 0, len(e.out.sites))
	for _, s := range e.out.sites {
		out = append(out, s.Site)
	}
	slices.SortFunc(out, func(a, b Site) int { return cmp.Compare(a.ID, b.ID) })
	return out
}
