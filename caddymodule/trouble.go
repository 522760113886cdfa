package caddymodule

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/diagnosis"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// trouble is something that is not as it should be. Health is what there is of it, and
// alerts tell when one comes and when it is gone.
type trouble struct {
	Kind troubleKind `json:"kind"`
	// Failure: mail does not flow, or will not in a moment. Else it is a warning.
	Failure bool `json:"failure"`
	// What it is about, as far as it is about that.
	Tenant   string `json:"tenant,omitempty"`
	Provider string `json:"provider,omitempty"`
	User     string `json:"user,omitempty"`
	// Credential is one of a provider's client, and Caller who sends.
	Credential string     `json:"credential,omitempty"`
	Caller     string     `json:"caller,omitempty"`
	Sender     string     `json:"sender,omitempty"`
	Since      *time.Time `json:"since,omitempty"`
	// Diagnosis is the row of the diagnosis table that fits, if one does.
	Diagnosis string `json:"diagnosis,omitempty"`
	// What is wrong, whose job it is, and what to do.
	What string `json:"what"`
	Who  string `json:"who"`
	Do   string `json:"do"`
}

// troubleKind says what kind of trouble it is.
type troubleKind string

const (
	troubleSignIn     troubleKind = "sign_in_needed"
	troubleRefresh    troubleKind = "refresh_failing"
	troubleSecret     troubleKind = "secret_expiring"
	troubleQueue      troubleKind = "queue_old"
	troubleStopped    troubleKind = "sending_stopped"
	troublePaused     troubleKind = "sending_paused"
	troubleFailedOver troubleKind = "failed_over"
	troubleOutbox     troubleKind = "outbox_full"
	troubleStorage    troubleKind = "storage_unreadable"
	troubleSendAs     troubleKind = "send_as_denied"
	troubleVolume     troubleKind = "volume_abnormal"
)

// troubleKey tells troubles apart.
type troubleKey struct {
	kind                                               troubleKind
	tenant, provider, user, credential, caller, sender string
}

func (t *trouble) key() troubleKey {
	return troubleKey{t.Kind, t.Tenant, t.Provider, t.User, t.Credential, t.Caller, t.Sender}
}

// about names what a trouble is about, for people.
func (t *trouble) about() string {
	var parts []string
	for _, p := range []struct{ word, name string }{
		{"tenant", t.Tenant}, {"account", strings.Trim(t.Provider+"/"+t.User, "/")}, {"", t.Credential}, {"", t.Caller}, {"as", t.Sender},
	} {
		if p.name == "" {
			continue
		}
		if p.word == "account" && t.User == "" {
			p.word = "provider"
		}
		parts = append(parts, strings.TrimSpace(p.word+" "+p.name))
	}
	return strings.Join(parts, ", ")
}

// secretAhead is how long before its end a credential is trouble; before that there is a
// line in the log.
const secretAhead = 30 * day

// troubles returns what is not as it should be, the worst first.
func (a *App) troubles(ctx context.Context, l diagnosis.Language) []trouble {
	s := a.registry.load()
	now := time.Now()
	list := []trouble{}
	for _, source := range s.sources() {
		if t, bad := accountTrouble(source.Status(ctx), now); bad {
			list = append(list, t)
		}
	}
	for _, p := range s.providers {
		list = append(list, p.troubles(now)...)
	}
	for name, t := range s.tenants {
		if v := viewSending(t); v.Sending == "failed_over" {
			list = append(list, trouble{
				Kind: troubleFailedOver, Tenant: name, What: "the tenant cannot send; its mail goes by its failover tenant " + t.mail.Failover + ": " + v.Cause,
				Who: string(tokens.WhoOperator), Do: "see with a connection test what is wrong",
			})
		}
	}
	list = append(list, denials.troubles(s, l)...)
	list = append(list, processVolumes.troubles(s)...)
	list = append(list, a.outboxTroubles(ctx, now, l)...)
	slices.SortFunc(list, func(x, y trouble) int {
		if x.Failure != y.Failure {
			if x.Failure {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.Tenant, y.Tenant), cmp.Compare(x.Provider, y.Provider),
			cmp.Compare(x.User, y.User), cmp.Compare(x.Credential, y.Credential))
	})
	return list
}

// accountTrouble is what is wrong with an account.
func accountTrouble(st tokens.Status, now time.Time) (t trouble, bad bool) {
	t = trouble{Provider: st.Account.Provider, User: st.Account.User}
	switch st.State {
	case tokens.StateAuthorized:
		return t, false
	case tokens.StateUnauthorized:
		t.Kind, t.Failure = troubleSignIn, true
		t.What, t.Who, t.Do = "nobody has signed in to this account", string(tokens.WhoOwner), ""
	case tokens.StateFailing:
		t.Kind, t.Failure = troubleRefresh, !st.Expiry.After(now)
		t.What, t.Who, t.Do = "the token cannot be refreshed", string(tokens.WhoNobody), "wait: it is tried again"
	case tokens.StateUnknown:
		t.Kind, t.Failure = troubleStorage, true
		t.What, t.Who, t.Do = "the storage cannot be read", string(tokens.WhoOperator), "see what is wrong with the storage"
	}
	if f := st.Failure; f != nil {
		t.Since = given(f.At)
		if t.Kind == troubleSignIn {
			t.What = "the sign-in to this account has ended"
		}
		if f.Description != "" {
			t.What += ": " + f.Description
		}
		if advice, ok := f.Advice(); ok {
			t.What, t.Who, t.Do = advice.Meaning, string(advice.Who), advice.Do
		}
	}
	if t.Kind == troubleSignIn {
		t.Do = strings.TrimPrefix(t.Do+"; then sign in: "+signInCommand(st.Account), "; then ")
	}
	return t, true
}

// signInCommand has a person sign in to an account.
func signInCommand(account tokens.Account) string {
	return "caddy oauth-mail authorize " + account.Provider + "/" + account.User
}

// troubles are the ends of a provider's credentials that are near.
func (p *provider) troubles(now time.Time) []trouble {
	var list []trouble
	for _, e := range p.expiries() {
		left := e.At.Sub(now)
		if left > secretAhead {
			continue
		}
		t := trouble{
			Kind: troubleSecret, Failure: left <= 0, Provider: e.Provider, Credential: e.Credential,
			What: fmt.Sprintf("it expires in %d days, on %s", int(left/day), e.At.Format(time.DateOnly)),
			Who:  string(tokens.WhoOperator), Do: "make a new one at the provider and put it in place",
		}
		if left <= 0 {
			t.What = "it has expired on " + e.At.Format(time.DateOnly)
		}
		list = append(list, t)
	}
	return list
}

// outboxTroubles are those of messages that wait.
func (a *App) outboxTroubles(ctx context.Context, now time.Time, l diagnosis.Language) []trouble {
	if a.engine == nil {
		return nil
	}
	broken := func(err error) []trouble {
		return []trouble{{
			Kind: troubleOutbox, Failure: true, What: "the outbox cannot be used: " + err.Error(),
			Who: string(tokens.WhoOperator), Do: "see what is wrong with it",
		}}
	}
	box, release, err := a.useOutbox()
	if err != nil {
		return broken(err)
	}
	defer release()
	stats, err := box.Engine().Stats(ctx)
	if err != nil {
		return broken(err)
	}
	lanes, err := box.Engine().Lanes(ctx)
	if err != nil {
		return broken(err)
	}
	var list []trouble
	if code := a.box.refusing.Load(); code != nil {
		do := "make room on the disk, or raise max_size of the outbox and restart"
		if *code != outbox.CodeFull {
			do = "see in the log what keeps it from storing messages, such as the rights of its folder"
		}
		list = append(list, trouble{
			Kind: troubleOutbox, Failure: true, What: "the outbox takes no messages (" + *code + ")",
			Who: string(tokens.WhoOperator), Do: do,
		})
	}
	for name, t := range stats.Tenants {
		if !t.Oldest.IsZero() && now.Sub(t.Oldest) >= a.patience() {
			n := waiting(t) - t.Messages[outbox.StateScheduled]
			list = append(list, trouble{
				Kind: troubleQueue, Tenant: name, Since: given(t.Oldest.UTC()),
				What: fmt.Sprintf("%d messages wait, the oldest for %s", n, now.Sub(t.Oldest).Round(time.Minute)),
				Who:  string(tokens.WhoOperator), Do: "see why: caddy oauth-mail outbox",
			})
		}
	}
	s := a.registry.load()
	for name, lane := range lanes {
		account, _ := waitsForSignIn(ctx, s.tenants[name], lane)
		if t, bad := laneTrouble(name, lane, account, l); bad {
			list = append(list, t)
		}
	}
	return list
}

// laneTrouble is why a tenant's messages wait. What rests is not trouble yet: if it does
// not end soon, messages are old. The account is the one that a sign-in to is all that
// they wait for; zero where they wait for something else.
func laneTrouble(name string, lane outbox.Lane, account tokens.Account, l diagnosis.Language) (t trouble, bad bool) {
	t = trouble{Tenant: name, Since: given(lane.Since)}
	switch lane.State {
	case outbox.LanePaused:
		t.Kind, t.Who = troublePaused, string(tokens.WhoOperator)
		t.What, t.Do = lane.By+" has paused it", "when it may send again: caddy oauth-mail outbox resume "+name
		return t, true
	case outbox.LaneParked:
		t.Kind, t.Failure, t.What, t.Who = troubleStopped, true, "its messages wait until somebody acts", string(tokens.WhoOperator)
		if lane.Failure != nil {
			advice := lane.Failure.Err().Diagnosis().Advice(l)
			t.Diagnosis, t.What, t.Who, t.Do = advice.ID, advice.Meaning, string(advice.Who), strings.Join(advice.Do, " ")
		}
		if account != (tokens.Account{}) {
			t.Do = "sign in: " + signInCommand(account) + "; its messages go then"
		} else {
			t.Do = strings.TrimSpace(t.Do + " Then: caddy oauth-mail outbox resume " + name)
		}
		return t, true
	case outbox.LaneOpen, outbox.LaneResting:
	}
	return t, false
}
