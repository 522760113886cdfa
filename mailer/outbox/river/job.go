package river

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/jackc/pgx/v5"
	rq "github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// dueJob wakes the lane of a message when that is due.
type dueJob struct {
	ID         string `json:"id"`
	Lane       string `json:"lane"`
	Generation int64  `json:"generation"`
}

// Kind names the jobs among others in River's tables.
func (dueJob) Kind() string { return "oauth_mail_due" }

const queue = "oauth_mail"

// tries of a job are not those of its message: they end when the database answers.
const tries = math.MaxInt16 - 1

// dueWorker is nil-safe where a client only inserts.
type dueWorker struct {
	rq.WorkerDefaults[dueJob]
	run *run
}

func (w *dueWorker) Work(ctx context.Context, j *rq.Job[dueJob]) error {
	return w.run.jobDue(ctx, j.Args)
}

// NextRetry is a policy of its own: the job failed because the database did.
func (w *dueWorker) NextRetry(*rq.Job[dueJob]) time.Time { return time.Now().Add(10 * time.Second) }

// riverClient makes a client that inserts jobs, and works on them for r if that is
// not nil.
func (e *Engine) riverClient(id string, r *run) (*rq.Client[pgx.Tx], error) {
	workers := rq.NewWorkers()
	if err := rq.AddWorkerSafely(workers, &dueWorker{run: r}); err != nil {
		return nil, err
	}
	c := &rq.Config{
		ID: id, Schema: e.Schema, Logger: e.riverLogger(), Workers: workers,
		JobTimeout: 15 * time.Minute, RescueStuckJobsAfter: 20 * time.Minute, MaxAttempts: tries,
		// A job that has ended has nothing to tell.
		CompletedJobRetentionPeriod: time.Minute, CancelledJobRetentionPeriod: time.Minute, DiscardedJobRetentionPeriod: time.Hour,
	}
	if r != nil {
		c.Queues = map[string]rq.QueueConfig{queue: {MaxWorkers: 2 * claimers}}
	}
	return rq.NewClient(riverpgxv5.New(e.pool), c)
}

// insertJob adds the job of a message that waits, or is tried at once. A message that
// is due needs none to be tried, but one that looks after it.
func (e *Engine) insertJob(ctx context.Context, tx pgx.Tx, m *outbox.Message, generation int64) (int64, error) {
	at := time.Now().Add(e.net)
	if m.Due.After(time.Now()) {
		at = m.Due
	}
	r, err := e.jobs.InsertTx(ctx, tx, dueJob{m.ID, m.Tenant, generation}, &rq.InsertOpts{Queue: queue, ScheduledAt: at, MaxAttempts: tries})
	if err != nil {
		return 0, err
	}
	return r.Job.ID, nil
}

// deleteJob removes a job that is no longer needed. One that runs at this moment
// finds another generation.
func (e *Engine) deleteJob(ctx context.Context, tx pgx.Tx, id int64) error {
	if id == 0 {
		return nil
	}
	_, err := e.jobs.JobDeleteTx(ctx, tx, id)
	if errors.Is(err, rivertype.ErrNotFound) || errors.Is(err, rivertype.ErrJobRunning) {
		return nil
	}
	return err
}

// jobDue is the work of a job.
func (r *run) jobDue(ctx context.Context, j dueJob) error {
	if r.laneClosed(j.Lane) {
		return nil // and who opens it looks
	}
	var waiting bool
	err := r.pool.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM messages WHERE id = $1 AND generation = $2 AND state IN ('queued', 'scheduled'))`,
		j.ID, j.Generation).Scan(&waiting)
	if err != nil || !waiting {
		return err
	}
	if !r.due(j.Lane, time.Now()) {
		r.shouts.add(j.Lane)
	}
	return nil
}
