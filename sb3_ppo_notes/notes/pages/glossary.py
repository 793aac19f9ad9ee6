"""The field's words in four languages, each with its symbol and the note that explains it."""

from typing import NamedTuple


class Term(NamedTuple):
    """A word of the field.

    :param en: English.
    :param ja: Japanese.
    :param fr: French.
    :param ko: Korean.
    :param symbol: as in the equations, empty where there is none.
    :param note: name of the note that explains it.
    """

    en: str
    ja: str
    fr: str
    ko: str
    symbol: str
    note: str


TERMS = (
    Term("action", "行動", "action", "행동", "a", "what-comes-out"),
    Term("action value", "行動価値", "valeur d'action", "행동 가치", "Q", "v-or-q"),
    Term("actor", "アクター", "acteur", "액터", "π", "one-loss"),
    Term("Adam", "Adam", "Adam", "Adam", "m, v", "does-the-clip-clip"),
    Term("advantage", "アドバンテージ", "avantage", "어드밴티지", "Â", "v-or-q"),
    Term("advantage normalisation", "アドバンテージの正規化", "normalisation des avantages", "어드밴티지 정규화", "", "why-normalise-advantages"),
    Term("bandit", "バンディット", "bandit", "밴딧", "", "what-is-log-prob"),
    Term("baseline", "ベースライン", "ligne de base", "베이스라인", "b", "why-subtract-v"),
    Term("bias", "バイアス", "biais", "편향", "", "how-far"),
    Term("bootstrapping", "ブートストラップ", "amorçage", "부트스트랩", "", "how-far"),
    Term("clip range", "クリップ範囲", "plage de coupure", "클리핑 범위", "ε", "why-min"),
    Term("convergence", "収束", "convergence", "수렴", "", "converges"),
    Term("critic", "クリティック", "critique", "크리틱", "V", "what-the-critic-learns"),
    Term("density", "確率密度", "densité", "확률 밀도", "", "what-is-log-prob"),
    Term("discount factor", "割引率", "facteur d'actualisation", "할인율", "γ", "how-far"),
    Term("early stopping", "早期打ち切り", "arrêt anticipé", "조기 종료", "", "why-break"),
    Term("effective sample size", "有効サンプルサイズ", "taille d'échantillon effective", "유효 표본 크기", "ESS", "why-old-samples"),
    Term("entropy", "エントロピー", "entropie", "엔트로피", "H", "entropy-largest"),
    Term("entropy bonus", "エントロピーボーナス", "bonus d'entropie", "엔트로피 보너스", "", "entropy-bonus"),
    Term("environment", "環境", "environnement", "환경", "", "many-environments"),
    Term("episode", "エピソード", "épisode", "에피소드", "", "time-limit"),
    Term("epoch", "エポック", "époque", "에포크", "", "when-is-old-old"),
    Term("experience replay", "経験再生", "rejeu d'expérience", "경험 리플레이", "", "many-environments"),
    Term("exploration", "探索", "exploration", "탐험", "", "entropy-bonus"),
    Term("generalised advantage estimation", "一般化アドバンテージ推定", "estimation généralisée de l'avantage", "일반화 어드밴티지 추정", "λ", "what-lambda-trades"),
    Term("gradient", "勾配", "gradient", "그래디언트", "∇", "what-is-log-prob"),
    Term("gradient clipping", "勾配クリッピング", "écrêtage du gradient", "그래디언트 클리핑", "", "gradient-clip"),
    Term("Huber loss", "フーバー損失", "perte de Huber", "후버 손실", "", "critic-error"),
    Term("importance sampling", "重点サンプリング", "échantillonnage préférentiel", "중요도 샘플링", "ρ", "why-old-samples"),
    Term("KL divergence", "KLダイバージェンス", "divergence KL", "KL 발산", "KL", "which-kl"),
    Term("KL penalty", "KLペナルティ", "pénalité KL", "KL 페널티", "β", "other-brakes"),
    Term("lambda return", "λ収益", "retour λ", "람다 리턴", "Ĝ", "what-the-critic-learns"),
    Term("learning rate", "学習率", "taux d'apprentissage", "학습률", "α", "other-brakes"),
    Term("log-probability", "対数確率", "log-probabilité", "로그 확률", "log π", "what-is-log-prob"),
    Term("logit", "ロジット", "logit", "로짓", "z", "what-comes-out"),
    Term("loss", "損失", "perte", "손실", "L", "one-loss"),
    Term("minibatch", "ミニバッチ", "mini-lot", "미니배치", "", "order"),
    Term("Monte Carlo return", "モンテカルロ収益", "retour de Monte-Carlo", "몬테카를로 리턴", "", "what-the-critic-learns"),
    Term("observation normalisation", "観測の正規化", "normalisation des observations", "관측 정규화", "", "normaliser"),
    Term("off-policy", "オフポリシー", "hors politique", "오프 폴리시", "", "why-old-samples"),
    Term("on-policy", "オンポリシー", "selon la politique", "온 폴리시", "", "why-old-samples"),
    Term("policy", "方策", "politique", "정책", "π", "v-or-q"),
    Term("policy gradient", "方策勾配", "gradient de politique", "정책 경사", "", "what-is-log-prob"),
    Term("ratio", "確率比", "rapport de vraisemblance", "확률비", "ρ", "why-old-samples"),
    Term("reparameterisation", "再パラメータ化", "reparamétrisation", "재매개변수화", "", "what-is-log-prob"),
    Term("return", "収益", "retour", "리턴", "G", "how-far"),
    Term("reward", "報酬", "récompense", "보상", "r", "why-not-rewards"),
    Term("rollout", "ロールアウト", "déroulement", "롤아웃", "", "order"),
    Term("score function", "スコア関数", "fonction score", "스코어 함수", "∇log π", "what-is-log-prob"),
    Term("softmax", "ソフトマックス", "softmax", "소프트맥스", "", "what-comes-out"),
    Term("standard deviation", "標準偏差", "écart type", "표준편차", "σ", "entropy-largest"),
    Term("state value", "状態価値", "valeur d'état", "상태 가치", "V", "v-or-q"),
    Term("surrogate objective", "代理目的関数", "objectif de substitution", "대리 목적 함수", "L", "surrogate"),
    Term("synchronous update", "同期更新", "mise à jour synchrone", "동기식 업데이트", "", "a2c-is-ppo"),
    Term("temporal-difference error", "TD誤差", "erreur de différence temporelle", "TD 오차", "δ", "what-lambda-trades"),
    Term("terminal state", "終端状態", "état terminal", "종료 상태", "", "time-limit"),
    Term("time limit", "時間切れ", "limite de temps", "시간 제한", "", "time-limit"),
    Term("trust region", "信頼領域", "région de confiance", "신뢰 영역", "", "when-is-old-old"),
    Term("value clipping", "価値のクリッピング", "coupure de la valeur", "가치 클리핑", "", "critic-error"),
    Term("value function", "価値関数", "fonction de valeur", "가치 함수", "V", "what-the-critic-learns"),
    Term("variance", "分散", "variance", "분산", "", "why-subtract-v"),
    Term("worker process", "ワーカープロセス", "processus de travail", "작업자 프로세스", "", "blocking"),
)  # fmt: skip
